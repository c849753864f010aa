import { Box, Button, Group, Modal, Paper, Select, SimpleGrid, Stack, Text, TextInput, Title, VisuallyHidden } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useVirtualizer } from '@tanstack/react-virtual';
import { memo, useDeferredValue, useMemo, useRef, useState } from 'react';

import { Failed } from '../../parts/failed';
import { Waiting } from '../../parts/waiting';
import { type Result, type Row, rowsQuery, type Said } from './api';
import { number } from './numbers';
import { arranged, difference, type Order, telling } from './sorting';
import { known, useSay } from './words';

const HEIGHT = 88; // px, three lines of text

interface Given {
  id: string;
  result: Result;
  lower: string[];
}

/** What each question brought, sorted by what tuning changed; only what is in view is in the page. */
export function Rows({ id, result, lower }: Given) {
  const say = useSay();
  const figures = Object.keys(result.metrics);
  const compared = result.base !== undefined;
  const found = useQuery(rowsQuery(id));
  const [figure, setFigure] = useState(() => telling(result));
  const [order, setOrder] = useState<Order>(compared ? 'gain' : 'worst');
  const [text, setText] = useState('');
  const [opened, setOpened] = useState<Row | null>(null);
  const wanted = useDeferredValue(text);
  const rows = found.data?.rows;
  const low = lower.includes(figure);
  const shown = useMemo(() => arranged(rows ?? [], figure, low, order, wanted), [rows, figure, low, order, wanted]);
  const orders: Order[] = compared ? ['gain', 'loss', 'order'] : ['best', 'worst', 'order'];
  return (
    <Paper withBorder p="md" component="section" aria-label={say('rows.title')}>
      <Title order={2} size="h4" mb="sm">{say('rows.title')}</Title>
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Waiting />}
      {rows && (
        <Stack gap="sm">
          <Group align="end">
            <Select
              label={say('rows.by')}
              data={figures.map((each) => ({ value: each, label: known(`metric.${each}`) ? say(`metric.${each}` as 'metric.bleu') : each }))}
              value={figure}
              allowDeselect={false}
              onChange={(next) => next && setFigure(next)}
            />
            <Select
              aria-label={say('rows.by')}
              data={orders.map((each) => ({ value: each, label: say(`rows.${each}`) }))}
              value={order}
              allowDeselect={false}
              onChange={(next) => next && setOrder(next as Order)}
            />
            <TextInput label={say('rows.find')} value={text} onChange={(event) => setText(event.currentTarget.value)} />
            <Text size="sm" mb={8} className="numbers" role="status">{say('rows.count', { shown: shown.length, all: rows.length })}</Text>
          </Group>
          {shown.length === 0 ? <Text>{say('rows.none')}</Text> : <Window rows={shown} figure={figure} low={low} open={setOpened} />}
        </Stack>
      )}
      <Modal
        opened={opened !== null}
        onClose={() => setOpened(null)}
        size="xl"
        lockScroll={false} // it would put a style element into the page, which the policy refuses
        title={opened && say('rows.number', { number: opened.index + 1 })}
        closeButtonProps={{ 'aria-label': say('close') }}
      >
        {opened && <InFull row={opened} />}
      </Modal>
    </Paper>
  );
}

interface WindowGiven {
  rows: Row[];
  figure: string;
  low: boolean;
  open: (row: Row) => void;
}

function Window({ rows, figure, low, open }: WindowGiven) {
  const say = useSay();
  const box = useRef<HTMLDivElement>(null);
  const compared = rows.some((row) => row.base);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => box.current, estimateSize: () => HEIGHT, overscan: 6 });
  return (
    <Box style={{ overflowX: 'auto' }}>
      <Group wrap="nowrap" gap="md" px={4} pb={4} miw={640} aria-hidden style={{ borderBottom: '1px solid var(--mantine-color-default-border)' }}>
        <Text size="sm" fw={600} w={92} style={{ flexShrink: 0 }}>{say(compared ? 'rows.difference' : 'rows.value')}</Text>
        {(['rows.prompt', 'rows.expected', ...(compared ? ['rows.base' as const] : []), compared ? 'rows.tuned' : 'rows.answer'] as const).map((key) => (
          <Text key={key} size="sm" fw={600} style={{ flex: '1 1 0', minWidth: 0 }}>{say(key)}</Text>
        ))}
      </Group>
      <Box
        ref={box}
        role="list"
        tabIndex={0}
        aria-label={say('rows.title')}
        style={{ height: Math.min(640, rows.length * HEIGHT + 2), overflowY: 'auto', minWidth: 640, position: 'relative' }}
      >
        <div style={{ height: virtual.getTotalSize(), position: 'relative' }}>
          {virtual.getVirtualItems().map((item) => (
            <div
              key={item.key}
              role="listitem"
              aria-posinset={item.index + 1}
              aria-setsize={rows.length}
              style={{
                position: 'absolute', top: 0, left: 0, right: 0, height: HEIGHT, transform: `translateY(${item.start}px)`,
                borderBottom: '1px solid var(--mantine-color-default-border)', overflow: 'hidden', padding: '8px 4px',
              }}
            >
              <Short row={rows[item.index]!} figure={figure} low={low} open={open} />
            </div>
          ))}
        </div>
      </Box>
    </Box>
  );
}

// scrolling shows the others again as they are
const Short = memo(function Short({ row, figure, low, open }: { row: Row; figure: string; low: boolean; open: (row: Row) => void }) {
  const say = useSay();
  const gained = difference(row, figure, low);
  // as the figure itself differs, whichever way is better
  const shown = gained === null ? row.scores[figure] : low ? -gained : gained;
  const mark = gained === null || gained === 0 ? '' : gained > 0 ? '▲ ' : '▼ ';
  const base = row.base;
  return (
    <Group wrap="nowrap" align="stretch" gap="md" h="100%">
      <Stack gap={4} w={92} style={{ flexShrink: 0 }}>
        <VisuallyHidden>{say(base ? 'rows.difference' : 'rows.value')}</VisuallyHidden>
        <Text fw={600} className="numbers">{mark}{shown === undefined ? '–' : (base && shown > 0 ? '+' : '') + number(figure, shown)}</Text>
        <Button size="compact-sm" variant="default" w="fit-content" aria-label={say('rows.open', { number: row.index + 1 })} onClick={() => open(row)}>
          #{row.index + 1}
        </Button>
      </Stack>
      <Piece label={say('rows.prompt')} text={row.prompt.at(-1)?.content ?? ''} />
      <Piece label={say('rows.expected')} text={row.expected} />
      {base && <Piece label={say('rows.base')} text={base.output ?? '–'} />}
      <Piece label={say(base ? 'rows.tuned' : 'rows.answer')} text={row.output ?? '–'} />
    </Group>
  );
});

function Piece({ label, text }: { label: string; text: string }) {
  return (
    <Box style={{ flex: '1 1 0', minWidth: 0 }}>
      <VisuallyHidden>{label}</VisuallyHidden>
      <Text size="sm" lineClamp={3} style={{ overflowWrap: 'anywhere' }}>{text.slice(0, 400)}</Text>
    </Box>
  );
}

function InFull({ row }: { row: Row }) {
  const say = useSay();
  return (
    <Stack>
      {row.prompt.map((turn, index) => (
        <Whole key={index} label={known(`role.${turn.role}`) ? say(`role.${turn.role}` as 'role.user') : turn.role} text={turn.content} />
      ))}
      <Whole label={say('rows.expected')} text={row.expected} />
      <SimpleGrid cols={{ base: 1, sm: row.base ? 2 : 1 }}>
        {row.base && <Answer label={say('rows.base')} said={row.base} />}
        <Answer label={say(row.base ? 'rows.tuned' : 'rows.answer')} said={row} />
      </SimpleGrid>
    </Stack>
  );
}

function Answer({ label, said }: { label: string; said: Said }) {
  const say = useSay();
  return (
    <Stack gap="xs">
      <Whole label={said.finish === 'length' ? `${label} (${say('rows.cut')})` : label} text={said.output ?? '–'} />
      <Text size="xs" className="numbers">
        {Object.entries(said.scores).map(([name, value]) => `${known(`metric.${name}`) ? say(`metric.${name}` as 'metric.bleu') : name} ${number(name, value)}`).join(' · ')}
      </Text>
    </Stack>
  );
}

function Whole({ label, text }: { label: string; text: string }) {
  return (
    <Box>
      <Text size="xs" fw={600}>{label}</Text>
      <Text size="sm" style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>{text}</Text>
    </Box>
  );
}
