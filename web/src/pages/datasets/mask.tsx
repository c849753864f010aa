import { Button, Card, Group, Loader, Stack, Text } from '@mantine/core';
import { useSearchParams } from 'wouter';

import { Failed } from '../../parts/failed';
import { type Dataset, type Preview, SHOWN, usePreviews } from './api';
import { ReadingChoice, useReading } from './reading';
import { PartChoice, usePart, versionOf } from './rows';
import { useSay } from './words';

/** Examples as the model reads them: what of them is learned, and what is cut off. */
export function Mask({ dataset }: { dataset: Dataset }) {
  const say = useSay();
  const reading = useReading();
  const part = usePart(dataset);
  const [asked, ask] = useSearchParams();
  const page = Math.max(0, Math.floor(Number(asked.get('page'))) || 0);
  const total = part === 'all' ? dataset.examples : dataset.splits[part] ?? 0;
  const found = usePreviews(dataset.id, reading, part, page, versionOf(dataset));
  const turn = (next: number) => ask((now) => {
    now.set('page', String(next));
    return now;
  });
  const last = Math.min(total, (page + 1) * SHOWN);
  return (
    <Stack>
      <ReadingChoice />
      <PartChoice dataset={dataset} />
      <Group gap="sm">
        <Text size="sm" style={{ flex: '1 1 20rem' }}>{say('mask.legend')}</Text>
        <Group gap="xs" component="ul" p={0} m={0} style={{ listStyle: 'none' }}>
          <li><code className="mask-learned">{say('mask.learned')}</code></li>
          <li><code className="mask-unlearned">{say('mask.unlearned')}</code></li>
          <li><code className="mask-cut">{say('mask.cut')}</code></li>
        </Group>
      </Group>
      <Group gap="xs">
        <Button size="xs" variant="default" disabled={page === 0} onClick={() => turn(page - 1)}>{say('mask.previous')}</Button>
        <Button size="xs" variant="default" disabled={last >= total} onClick={() => turn(page + 1)}>{say('mask.next')}</Button>
        <Text size="sm" className="numbers">{say('mask.page', { first: Math.min(total, page * SHOWN + 1), last, total: total.toLocaleString() })}</Text>
        {found.isFetching && found.data && <Loader size="xs" aria-label={say('loading')} />}
      </Group>
      {found.isFetching && !found.data && (
        <Group role="status" gap="sm"><Loader size="sm" /><Text size="sm">{say('mask.working', { base: reading.base })}</Text></Group>
      )}
      {found.error && !found.isFetching && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.data?.preview.length === 0 && <Text>{say('mask.none')}</Text>}
      {found.data?.preview.map((each) => (
        <Rendered key={`${each.file}:${each.line}${each.answer}`} preview={each} most={found.data.max_length} />
      ))}
    </Stack>
  );
}

function Rendered({ preview, most }: { preview: Preview; most: number }) {
  const say = useSay();
  const title = `${say('rows.one', { line: preview.line })}${preview.answer ? ` · ${say(`rows.${preview.answer}`)}` : ''}`;
  return (
    <Card withBorder padding="sm" component="section" aria-label={title}>
      <Group justify="space-between" mb="xs">
        <Text fw={600} size="sm" className="numbers">{title}</Text>
        <Text size="sm" className="numbers">{say('mask.counts', { tokens: preview.tokens, learned: preview.learned })}</Text>
      </Group>
      {preview.tokens > most && <Text size="sm" c="red" mb="xs">{say('mask.lost', { tokens: preview.tokens - most, most })}</Text>}
      <pre className="mask" tabIndex={0} aria-label={title}>
        {preview.pieces.map((piece, index) => {
          if (piece.cut) return <del key={index} className="mask-cut">{piece.text}</del>;
          if (!piece.learned) return <span key={index} className="mask-unlearned">{piece.text}</span>;
          return <mark key={index} className="mask-learned">{piece.text}</mark>;
        })}
      </pre>
      {preview.shortened && <Text size="sm" mt="xs">{say('mask.shortened')}</Text>}
    </Card>
  );
}
