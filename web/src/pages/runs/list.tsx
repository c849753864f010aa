import {
  Anchor, Button, Checkbox, Group, Paper, Progress, Select, Stack, Table, Text, TextInput, Title, VisuallyHidden,
} from '@mantine/core';
import { IconPlus } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { memo, useCallback, useState } from 'react';
import { Link, useLocation } from 'wouter';

import { useLanguage } from '../../i18n/language';
import { duration } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { StateBadge } from '../../parts/state-badge';
import { Waiting } from '../../parts/waiting';
import { When } from '../../parts/when';
import { executorName, lastPart, live, type Run, runsQuery } from './api';
import { useSay } from './words';

const STATES: Run['status'][] = ['queued', 'running', 'completed', 'failed', 'canceled'];
const SHOWN = 100; // at once; more come with a button

/** Every run, newest first; ticked ones can be compared. */
export function List() {
  const say = useSay();
  const [, go] = useLocation();
  const runs = useQuery(runsQuery);
  const [ticked, setTicked] = useState<string[]>([]);
  const [state, setState] = useState<string | null>(null);
  const [text, setText] = useState('');
  const [most, setMost] = useState(SHOWN);
  const tick = useCallback((id: string, on: boolean) => setTicked((known) => (on ? [...known, id] : known.filter((each) => each !== id))), []);
  const wanted = (run: Run) =>
    (state === null || run.status === state) &&
    `${run.output_dir} ${run.dataset_path} ${run.base_model} ${run.task_id}`.toLowerCase().includes(text.toLowerCase());
  const all = runs.data?.runs ?? [];
  const found = all.filter(wanted);
  const shown = found.slice(0, most);
  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h2">{say('title')}</Title>
        <Button component={Link} href="/runs/new" leftSection={<IconPlus size={16} />}>{say('start')}</Button>
      </Group>
      {runs.error && <Failed error={runs.error} again={() => void runs.refetch()} />}
      {runs.isPending && <Waiting />}
      {runs.data && all.length === 0 && <Empty />}
      {all.length > 0 && (
        <>
          <Group align="end">
            <TextInput label={say('filter.text')} value={text} onChange={(event) => setText(event.currentTarget.value)} />
            <Select
              label={say('filter.state')}
              placeholder={say('filter.any')}
              clearable
              data={STATES.map((each) => ({ value: each, label: say(`state.${each}`) }))}
              value={state}
              onChange={setState}
            />
            <Button
              variant="default"
              disabled={ticked.length < 2}
              title={say('compare.few')}
              onClick={() => go(`/runs/compare/${ticked.join(',')}`)}
            >
              {say('compare', { count: ticked.length })}
            </Button>
          </Group>
          {shown.length === 0 && <Text>{say('filter.none')}</Text>}
          {shown.length > 0 && (
            <Rows runs={shown} ticked={ticked} tick={tick} />
          )}
          {found.length > shown.length && (
            <Group gap="sm">
              <Button variant="default" onClick={() => setMost(most + SHOWN)}>{say('list.more')}</Button>
              <Text size="sm" className="numbers">{say('list.shown', { shown: shown.length, all: found.length })}</Text>
            </Group>
          )}
        </>
      )}
    </Stack>
  );
}

function Empty() {
  const say = useSay();
  return (
    <Paper withBorder p="xl">
      <Stack align="start">
        <Title order={2} size="h4">{say('empty.title')}</Title>
        <Text>{say('empty.text')}</Text>
        <Group>
          <Button component={Link} href="/runs/new">{say('start')}</Button>
          <Button component={Link} href="/datasets" variant="default">{say('empty.data')}</Button>
        </Group>
      </Stack>
    </Paper>
  );
}

interface RowsGiven {
  runs: Run[];
  ticked: string[];
  tick: (id: string, on: boolean) => void;
}

function Rows({ runs, ticked, tick }: RowsGiven) {
  const say = useSay();
  return (
    <Table.ScrollContainer minWidth={760}>
      <Table verticalSpacing="xs" highlightOnHover className="numbers" aria-label={say('title')}>
        <Table.Thead>
          <Table.Tr>
            <Table.Th w={36}><VisuallyHidden>{say('compare.few')}</VisuallyHidden></Table.Th>
            <Table.Th>{say('name')}</Table.Th>
            <Table.Th>{say('state')}</Table.Th>
            <Table.Th w={150}>{say('progress')}</Table.Th>
            <Table.Th>{say('loss')}</Table.Th>
            <Table.Th>{say('dataset')}</Table.Th>
            <Table.Th>{say('base')}</Table.Th>
            <Table.Th>{say('created')}</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {runs.map((run) => <Row key={run.task_id} run={run} ticked={ticked.includes(run.task_id)} tick={tick} />)}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}

/** Whether its data were written for it alone, as a provider reads them. */
const madeFor = (run: Run): boolean => run.dataset_path.startsWith(`runs/${run.task_id}/`);

/** Not drawn anew while its run stays as it is: the list is asked for every second. */
const Row = memo(function Row({ run, ticked, tick }: { run: Run; ticked: boolean; tick: RowsGiven['tick'] }) {
  const say = useSay();
  const { language } = useLanguage();
  const name = lastPart(run.output_dir);
  const place = executorName(run.executor);
  return (
    <Table.Tr>
      <Table.Td>
        <Checkbox
          aria-label={say('tick', { name })}
          checked={ticked}
          onChange={(event) => tick(run.task_id, event.currentTarget.checked)}
        />
      </Table.Td>
      <Table.Td style={{ overflowWrap: 'anywhere', minWidth: 200 }}>
        <Anchor component={Link} href={`/runs/${run.task_id}`} underline="always" fw={600}>{name}</Anchor>
        {place && <Text size="xs">{say('where', { place })}</Text>}
      </Table.Td>
      <Table.Td><StateBadge state={run.status} stopping={run.cancel_requested} /></Table.Td>
      <Table.Td>
        <Advance run={run} />
        {live(run) && run.seconds_left != null && run.current_step > 0 && (
          <Text size="xs">{say('left')}: {duration(run.seconds_left, language)}</Text>
        )}
      </Table.Td>
      <Table.Td>{run.loss?.toFixed(4) ?? '–'}</Table.Td>
      <Table.Td style={{ overflowWrap: 'anywhere', minWidth: 140 }} title={run.dataset_path}>{madeFor(run) ? say('dataset.own') : lastPart(run.dataset_path)}</Table.Td>
      <Table.Td style={{ overflowWrap: 'anywhere' }}>{run.base_model}</Table.Td>
      <Table.Td style={{ whiteSpace: 'nowrap' }}><When at={run.created_at} /></Table.Td>
    </Table.Tr>
  );
});

/** How far a run is; nothing is claimed of one that has not said. */
export function Advance({ run }: { run: Run }) {
  const say = useSay();
  return (
    <Group gap="xs" wrap="nowrap">
      <Progress value={run.progress} style={{ flex: 1, minWidth: 60 }} aria-label={say('progress')} />
      <Text size="xs" className="numbers" w={42} ta="right">{run.progress.toFixed(0)}%</Text>
    </Group>
  );
}
