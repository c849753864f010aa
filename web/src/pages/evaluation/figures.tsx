import { Paper, Table, Text, Title } from '@mantine/core';

import type { Difference, Interval, Result } from './api';
import { number, probability } from './numbers';
import { known, useSay } from './words';

const ORDER = ['exact_match', 'rougeL', 'rouge1', 'rouge2', 'bleu', 'perplexity'];

/** Every figure with its interval; of a comparison also what the base had, and the difference. */
export function Figures({ result, lower }: { result: Result; lower: string[] }) {
  const say = useSay();
  const names = Object.keys(result.metrics).sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
  const { base, difference } = result;
  return (
    <Paper withBorder p="md" component="section" aria-label={say('figures.title')}>
      <Title order={2} size="h4" mb="xs">{say('figures.title')}</Title>
      <Table.ScrollContainer minWidth={difference ? 720 : 320} scrollAreaProps={{ viewportProps: { tabIndex: 0, role: 'group', 'aria-label': say('figures.title') } }}>
        <Table className="numbers" aria-label={say('figures.title')}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>{say('figures.metric')}</Table.Th>
              {base && <Table.Th>{say('figures.base')}</Table.Th>}
              <Table.Th>{say(base ? 'figures.tuned' : 'figures.value')}</Table.Th>
              {difference && <><Table.Th>{say('figures.difference')}</Table.Th><Table.Th>{say('figures.p')}</Table.Th><Table.Th>{say('figures.says')}</Table.Th></>}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {names.map((name) => (
              <Table.Tr key={name}>
                <Table.Th scope="row">
                  {known(`metric.${name}`) ? say(`metric.${name}` as 'metric.bleu') : name}
                  {lower.includes(name) && <Text size="xs" fw={400}>{say('figures.lower')}</Text>}
                </Table.Th>
                {base && <Table.Td><Value of={base[name]} name={name} /></Table.Td>}
                <Table.Td><Value of={result.metrics[name]} name={name} /></Table.Td>
                {difference && <Differing of={difference[name]} name={name} lower={lower.includes(name)} />}
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      <Text size="xs" mt="xs">{say('figures.note')}</Text>
    </Paper>
  );
}

function Value({ of, name }: { of: Interval | undefined; name: string }) {
  const say = useSay();
  if (!of) return <>–</>;
  return (
    <>
      <Text span fw={600}>{number(name, of.value)}</Text>{' '}
      <Text span size="sm" style={{ whiteSpace: 'nowrap' }} title={say('figures.interval')}>[{number(name, of.low)}, {number(name, of.high)}]</Text>
    </>
  );
}

function Differing({ of, name, lower }: { of: Difference | undefined; name: string; lower: boolean }) {
  const say = useSay();
  if (!of) return <><Table.Td>–</Table.Td><Table.Td>–</Table.Td><Table.Td>–</Table.Td></>;
  const way = !of.significant ? 'same' : (of.value > 0) !== lower ? 'better' : 'worse';
  const mark = { better: '▲', worse: '▼', same: '=' }[way];
  return (
    <>
      <Table.Td><Value of={of} name={name} /></Table.Td>
      <Table.Td>{probability(of.p)}</Table.Td>
      <Table.Td><Text span fw={way === 'same' ? 400 : 600}><span aria-hidden>{mark} </span>{say(`says.${way}`)}</Text></Table.Td>
    </>
  );
}
