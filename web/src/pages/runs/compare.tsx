import { Anchor, Stack, Table, Title } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { Link } from 'wouter';

import { Back } from '../../parts/back';
import { Failed } from '../../parts/failed';
import { StateBadge } from '../../parts/state-badge';
import { lastPart, runsQuery } from './api';
import { Curves } from './curves';
import { NOTHING, usePoints } from './points';
import { useSay } from './words';

const MOST = 8;

/** Several runs' curves in one picture; which ones stands in the address. */
export function Compare({ ids }: { ids: string[] }) {
  const say = useSay();
  const chosen = useMemo(() => [...new Set(ids)].slice(0, MOST), [ids.join(',')]);
  const runs = useQuery(runsQuery);
  const points = usePoints(chosen);
  const of = useMemo(
    () => new Map(runs.data?.runs.map((run) => [run.task_id, run])),
    [runs.data],
  );
  const names = chosen.map((id) => lastPart(of.get(id)?.output_dir ?? id));
  const named = useMemo(
    () => chosen.map((id, index) => ({ name: names[index]!, points: points[id] ?? NOTHING })),
    [chosen, names.join('\n'), points],
  );
  const failure = chosen.map((id) => points[id]?.failure).find(Boolean) ?? runs.error;
  return (
    <Stack>
      <Back to="/runs">{say('all')}</Back>
      <Title order={1} size="h2">{say('compare.title', { count: chosen.length })}</Title>
      {failure && <Failed error={failure} />}
      {!(failure && named.every((run) => run.points.training.step.length === 0)) && <Curves runs={named} ended />}
      <Table.ScrollContainer minWidth={560}>
        <Table className="numbers" aria-label={say('title')}>
          <Table.Thead>
            <Table.Tr>
              {(['name', 'state', 'loss', 'dataset', 'base'] as const).map((key) => <Table.Th key={key}>{say(key)}</Table.Th>)}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {chosen.map((id) => of.get(id)).filter((run) => run !== undefined).map((run) => (
              <Table.Tr key={run.task_id}>
                <Table.Td><Anchor component={Link} href={`/runs/${run.task_id}`} underline="always">{lastPart(run.output_dir)}</Anchor></Table.Td>
                <Table.Td><StateBadge state={run.status} stopping={run.cancel_requested} /></Table.Td>
                <Table.Td>{run.loss?.toFixed(4) ?? '–'}</Table.Td>
                <Table.Td>{run.dataset_path}</Table.Td>
                <Table.Td>{run.base_model}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </Stack>
  );
}
