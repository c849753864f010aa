import { Anchor, Badge, Button, Center, Group, Loader, Stack, Table, Text, Textarea, Title } from '@mantine/core';
import { type FormEvent, type ReactNode, useState } from 'react';
import { Link, useLocation } from 'wouter';

import { Back } from '../../parts/back';
import { Confirm } from '../../parts/confirm';
import { bytes } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { type Adapter, type Base, describe, download, load, removeModel, useChange, useLibrary } from './api';
import { toEvaluate, toTry } from './links';
import { Section, Used } from './overview';
import { Promote } from './promote';
import { useSay } from './words';

/** One base model or adapter, and all that can be done with it. */
export function OneModel({ name }: { name: string }) {
  const say = useSay();
  const found = useLibrary();
  const adapter = found.data?.adapters.find((each) => each.name === name);
  const model = adapter ?? found.data?.bases.find((each) => each.name === name);
  const loaded = found.data?.loaded.some((each) => each.name === name) ?? false;
  return (
    <Stack maw={1000}>
      <Back to="/models">{say('back')}</Back>
      <Title order={1} size="h2" style={{ overflowWrap: 'anywhere' }}>{name}</Title>
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Center p="xl"><Loader aria-label={say('loading')} /></Center>}
      {found.data && !model && <Text>{say('gone', { name })}</Text>}
      {model && <Known model={model} adapter={adapter} loaded={loaded} />}
    </Stack>
  );
}

function Known({ model, adapter, loaded }: { model: Base | Adapter; adapter: Adapter | undefined; loaded: boolean }) {
  const say = useSay();
  const [, go] = useLocation();
  const [removing, setRemoving] = useState(false);
  const [promoting, setPromoting] = useState(false);
  const loading = useChange(load);
  const removal = useChange(removeModel);
  const saving = useChange(download);
  const failed = [loading, saving].find((each) => each.error);
  return (
    <>
      <Group gap="xs">
        <Button component={Link} href={toTry(model.name, adapter?.base_model)}>{say('try')}</Button>
        <Button component={Link} href={toEvaluate(model.name)} variant="light">{say('evaluate')}</Button>
        {!loaded && <Button variant="default" loading={loading.isPending} onClick={() => loading.mutate(model)}>{say('load')}</Button>}
        {adapter && (
          <>
            <Button variant="default" onClick={() => setPromoting(true)}>{say('alias.promote')}</Button>
            <Button variant="default" loading={saving.isPending} onClick={() => saving.mutate(model.name)}>{say('download')}</Button>
            <Button variant="default" onClick={() => setRemoving(true)}>{say('delete')}</Button>
          </>
        )}
      </Group>
      {loading.isPending && <Text size="sm" role="status">{say('loads', { name: model.name })}</Text>}
      {failed && <Failed error={failed.error} />}
      <Described model={model} editable={adapter?.editable ?? true} />
      <Facts model={model} adapter={adapter} />
      <Confirm
        opened={removing} title={say('delete.title')} verb={say('delete')} close={() => setRemoving(false)}
        act={async () => {
          await removal.mutateAsync(model.name);
          go('/models');
        }}
      >
        {say('delete.text', { name: model.name })}
      </Confirm>
      <Promote adapter={promoting ? model.name : null} close={() => setPromoting(false)} />
    </>
  );
}

function Facts({ model, adapter }: { model: Base | Adapter; adapter: Adapter | undefined }) {
  const say = useSay();
  const facts: [string, ReactNode][] = 'architecture' in model
    ? [
        [say('architecture'), model.architecture],
        [say('context'), say('tokens', { count: model.context_length.toLocaleString() })],
      ]
    : [
        [say('base'), model.base_model],
        [say('rank'), model.rank],
        [say('version'), model.version ?? '–'],
        [say('aliases'), model.aliases.length ? model.aliases.map((each) => <Badge key={each} tt="none" mr={4}>{each}</Badge>) : '–'],
        [say('made'), <When key="made" at={model.created_at} />],
      ];
  facts.push([say('size'), bytes(model.size_bytes)], [say('used'), <Used key="used" count={model.usage_count} />]);
  if (model.last_used) facts.push([say('last'), <When key="last" at={model.last_used} />]);
  if (adapter?.run_id) {
    facts.push([
      say('run'),
      <Anchor key="run" component={Link} href={`/runs/${encodeURIComponent(adapter.run_id)}`} underline="always">{adapter.run_id.slice(0, 8)}</Anchor>,
    ]);
  }
  return (
    <Table variant="vertical" layout="fixed" withTableBorder className="numbers">
      <Table.Tbody>
        {facts.map(([label, value]) => (
          <Table.Tr key={label}>
            <Table.Th scope="row" w={{ base: 110, sm: 180 }}>{label}</Table.Th>
            <Table.Td style={{ overflowWrap: 'anywhere' }}>{value}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}

function Described({ model, editable }: { model: Base | Adapter; editable: boolean }) {
  const say = useSay();
  const [text, setText] = useState<string | null>(null);
  const saving = useChange((said: string) => describe(model.name, said));
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (text !== null) saving.mutate(text, { onSuccess: () => setText(null) });
  };
  return (
    <Section title={say('description')}>
      {text === null ? (
        <Group align="flex-start" justify="space-between">
          <Text style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere', flex: '1 1 16rem' }} {...(model.description ? {} : { className: 'quiet' })}>
            {model.description || say('description.none')}
          </Text>
          {editable && <Button size="xs" variant="default" onClick={() => setText(model.description)}>{say('description.edit')}</Button>}
        </Group>
      ) : (
        <form onSubmit={submit}>
          <Textarea
            aria-label={say('description')} value={text} autosize minRows={2} maxLength={2000} autoFocus
            onChange={(event) => setText(event.currentTarget.value)}
          />
          <Group mt="xs" gap="xs">
            <Button type="submit" size="xs" loading={saving.isPending}>{say('description.save')}</Button>
            <Button size="xs" variant="default" onClick={() => setText(null)}>{say('cancel')}</Button>
          </Group>
        </form>
      )}
      {saving.error && <Failed error={saving.error} />}
    </Section>
  );
}
