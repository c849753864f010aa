import { Skeleton, Stack, Table, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';

import { Failed } from '../../parts/failed';
import { spending } from './api';
import { dollars } from './money';
import { useSay } from './words';

const count = (value: number): string => value.toLocaleString('en');

/** What answers of each model took and cost. */
export function Usage() {
  const say = useSay();
  const spent = useQuery({ queryKey: ['usage'], queryFn: ({ signal }) => spending(signal), refetchInterval: 30_000 });
  if (!spent.data) return spent.error ? <Failed error={spent.error} again={() => void spent.refetch()} /> : <Skeleton height={160} />;
  const { models, total_cost_usd: total } = spent.data;
  if (models.length === 0) return <Text c="dimmed">{say('usage.none')}</Text>;
  return (
    <Stack gap="sm">
      <Text size="sm" c="dimmed">{say('usage.about')}</Text>
      <Table.ScrollContainer minWidth={560} scrollAreaProps={{ viewportProps: { tabIndex: 0, role: 'region', 'aria-label': say('tab.usage') } }}>
        <Table className="numbers">
          <Table.Thead>
            <Table.Tr>
              <Table.Th>{say('usage.model')}</Table.Th>
              {(['answers', 'prompt', 'completion', 'cost'] as const).map((name) => (
                <Table.Th key={name} ta="right">{say(`usage.${name}`)}</Table.Th>
              ))}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {models.map((each) => (
              <Table.Tr key={`${each.service}/${each.model}`}>
                <Table.Td style={{ overflowWrap: 'anywhere' }}>
                  {each.model}
                  <Text size="xs" c="dimmed">{each.service === 'local' ? say('here') : each.service}</Text>
                </Table.Td>
                <Table.Td ta="right">{count(each.answers)}</Table.Td>
                <Table.Td ta="right">{count(each.prompt_tokens)}</Table.Td>
                <Table.Td ta="right">{count(each.completion_tokens)}</Table.Td>
                <Table.Td ta="right">{dollars(each.cost_usd)}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
          <Table.Tfoot>
            <Table.Tr>
              <Table.Th colSpan={4} scope="row">{say('usage.total')}</Table.Th>
              <Table.Th ta="right">{dollars(total)}</Table.Th>
            </Table.Tr>
          </Table.Tfoot>
        </Table>
      </Table.ScrollContainer>
    </Stack>
  );
}
