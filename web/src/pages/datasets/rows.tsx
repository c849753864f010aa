import { Box, Modal, SegmentedControl, Stack, Text } from '@mantine/core';
import { useQueries, useQuery } from '@tanstack/react-query';
import { useCallback, useMemo, useState } from 'react';
import { useSearchParams } from 'wouter';

import { useLanguage } from '../../i18n/language';
import { Failed } from '../../parts/failed';
import { type Column, RowsTable } from '../../parts/table';
import { type Dataset, type Message, type Row, WINDOW, windowQuery } from './api';
import { PARTS } from './splits';
import { useSay } from './words';

/** What tells that the rows are others now. */
export const versionOf = (dataset: Dataset): string => JSON.stringify([dataset.created_at, dataset.splits]);

/** Every row, fetched as it comes into view. */
export function Rows({ dataset }: { dataset: Dataset }) {
  const say = useSay();
  const part = usePart(dataset);
  const [looked, setLooked] = useState<[number, number]>([0, 0]);
  const [opened, setOpened] = useState<number | null>(null);
  const count = part === 'all' ? dataset.examples : dataset.splits[part] ?? 0;
  const version = versionOf(dataset);
  const first = Math.floor(looked[0] / WINDOW);
  const last = Math.max(first, Math.floor(looked[1] / WINDOW));
  const numbers = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  const windows = useQueries({ queries: numbers.map((number) => windowQuery(dataset.id, part, number, version)) });
  const failed = windows.find((each) => each.error);
  const look = useCallback((from: number, to: number) => {
    setLooked((now) => (now[0] === from && now[1] === to ? now : [from, to]));
  }, []);
  const row = (index: number): Row | undefined =>
    windows[Math.floor(index / WINDOW) - first]?.data?.rows[index % WINDOW];
  const columns = useColumns(windows.find((each) => each.data)?.data?.shape === 'preference' || dataset.shape === 'preference');
  return (
    <Stack gap="sm">
      <PartChoice dataset={dataset} />
      {failed && <Failed error={failed.error} again={() => void failed.refetch()} />}
      {count === 0 ? <Text>{say('rows.none')}</Text> : (
        <RowsTable
          key={part}
          label={say('rows.label', { name: dataset.name })} count={count} columns={columns} row={row} look={look}
          open={setOpened} opens={(index) => say('rows.open', { line: index + 1 })} number={(index) => String(index + 1)}
        />
      )}
      <Opened dataset={dataset} part={part} index={opened} close={() => setOpened(null)} />
    </Stack>
  );
}

/** The part that the address names. */
export function usePart(dataset: Dataset): string {
  const [asked] = useSearchParams();
  const named = asked.get('part');
  return named && named in dataset.splits ? named : 'all';
}

/** Chooses the part of a split; nothing where there is none. */
export function PartChoice({ dataset }: { dataset: Dataset }) {
  const say = useSay();
  const [, ask] = useSearchParams();
  const part = usePart(dataset);
  const parts = PARTS.filter((each) => each in dataset.splits);
  if (parts.length === 0) return null;
  const choose = (next: string) => ask((now) => {
    now.set('part', next);
    now.delete('page');
    return now;
  });
  const data = [
    { value: 'all', label: say('split.all') },
    ...parts.map((each) => ({ value: each, label: `${say(`split.${each}`)} (${dataset.splits[each]!.toLocaleString()})` })),
  ];
  return (
    <Box style={{ overflowX: 'auto' }}>
      <SegmentedControl value={part} onChange={choose} data={data} aria-label={say('rows.part')} />
    </Box>
  );
}

function useColumns(pairs: boolean): Column<Row>[] {
  const say = useSay();
  const { language } = useLanguage();
  return useMemo(() => {
    const wrong = (row: Row) => row.problem && <Text component="span" size="sm" c="red">{row.problem[language]}</Text>;
    const half = 'minmax(0, 1fr)';
    const asked = { label: say('rows.asked'), width: half, shown: (row: Row) => wrong(row) ?? questionOf(row.messages ?? row.chosen ?? []) };
    if (!pairs) {
      return [asked, { label: say('rows.answer'), width: half, shown: (row: Row) => answerOf(row.messages ?? []) }];
    }
    return [
      asked,
      { label: say('rows.chosen'), width: half, shown: (row: Row) => answerOf(row.chosen ?? []) },
      { label: say('rows.rejected'), width: half, shown: (row: Row) => answerOf(row.rejected ?? []) },
    ];
  }, [pairs, say, language]);
}

// a cell shows two lines: more of a long text would only make the page slow
const beginning = (text: string): string => (text.length > 400 ? `${text.slice(0, 400)}…` : text);

function questionOf(messages: Message[]): string {
  return beginning([...messages].reverse().find((each) => each.role === 'user')?.content ?? messages[0]?.content ?? '');
}

function answerOf(messages: Message[]): string {
  return beginning([...messages].reverse().find((each) => each.role === 'assistant')?.content ?? '');
}

function Opened({ dataset, part, index, close }: { dataset: Dataset; part: string; index: number | null; close: () => void }) {
  const say = useSay();
  const { language } = useLanguage();
  const number = Math.floor((index ?? 0) / WINDOW);
  const found = useQuery({ ...windowQuery(dataset.id, part, number, versionOf(dataset)), enabled: index !== null });
  const row = index === null ? undefined : found.data?.rows[index % WINDOW];
  return (
    <Modal
      opened={index !== null} onClose={close} size="xl" lockScroll={false} closeButtonProps={{ 'aria-label': say('close') }}
      title={index === null ? '' : say('rows.one', { line: index + 1 })}
    >
      <Stack>
        {row?.problem && <Text c="red">{row.problem[language]}</Text>}
        {row?.messages && <Conversation messages={row.messages} />}
        {row?.chosen && <><Text fw={700}>{say('rows.chosen')}</Text><Conversation messages={row.chosen} /></>}
        {row?.rejected && <><Text fw={700}>{say('rows.rejected')}</Text><Conversation messages={row.rejected.slice(-1)} /></>}
      </Stack>
    </Modal>
  );
}

const ROLES = ['system', 'user', 'assistant', 'tool'] as const;

function Conversation({ messages }: { messages: Message[] }) {
  const say = useSay();
  return (
    <Stack gap="xs">
      {messages.map((each, index) => {
        const role = ROLES.find((known) => known === each.role);
        return (
          <div key={index}>
            <Text size="sm" fw={600} className="quiet">{role ? say(`role.${role}`) : each.role}</Text>
            <Text className="said">{each.content}</Text>
          </div>
        );
      })}
    </Stack>
  );
}
