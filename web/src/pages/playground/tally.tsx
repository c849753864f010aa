import { Button, Group, Paper, Stack, Table, Text, Title } from '@mantine/core';
import { IconDownload } from '@tabler/icons-react';
import { useState } from 'react';

import { forgetVotes, useVotes } from './kept-votes';
import { decided, preferencePairs, tallies, type Tally, wilson } from './votes';
import { useSay } from './words';

/** What was judged so far in this browser, and the way out of it: pairs to train on. */
export function TallyShown() {
  const say = useSay();
  const votes = useVotes();
  const [asking, setAsking] = useState(false);
  const pairs = preferencePairs(votes);
  const count = pairs.split('\n').length - 1;
  return (
    <Paper withBorder p="sm" component="section" aria-label={say('tally')}>
      <Stack gap="sm">
        <Title order={2} size="h5">{say('tally')}</Title>
        {votes.length === 0 && <Text size="sm">{say('tally.empty')}</Text>}
        {votes.length > 0 && <Table.ScrollContainer minWidth={560}>
          <Table className="numbers">
            <Table.Thead>
              <Table.Tr>
                <Table.Th scope="col">{say('tally.models')}</Table.Th>
                <Table.Th scope="col" ta="end">{say('tally.wins')}</Table.Th>
                <Table.Th scope="col">{say('tally.share')}</Table.Th>
                <Table.Th scope="col" ta="end">{say('tally.ties')}</Table.Th>
                <Table.Th scope="col" ta="end">{say('tally.bad')}</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {tallies(votes).map((tally) => <Row key={`${tally.first}\n${tally.second}`} tally={tally} />)}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>}
        {votes.length > 0 && <Group gap="sm">
          <Button variant="default" leftSection={<IconDownload size={16} />} disabled={count === 0} onClick={() => download(pairs)}>
            {say('tally.export', { count })}
          </Button>
          {asking ? (
            <Group gap="xs" role="alert">
              <Text size="sm">{say('tally.sure', { count: votes.length })}</Text>
              <Button color="red" variant="outline" onClick={() => { forgetVotes(); setAsking(false); }}>{say('tally.forget')}</Button>
              <Button variant="default" onClick={() => setAsking(false)}>{say('tally.keep')}</Button>
            </Group>
          ) : (
            <Button variant="subtle" color="gray" onClick={() => setAsking(true)}>{say('tally.forget')}</Button>
          )}
        </Group>}
      </Stack>
    </Paper>
  );
}

function Row({ tally }: { tally: Tally }) {
  const say = useSay();
  const all = tally.firstWins + tally.secondWins;
  const ahead = tally.secondWins > tally.firstWins ? tally.second : tally.first;
  const found = wilson(Math.max(tally.firstWins, tally.secondWins), all);
  return (
    <Table.Tr>
      <Table.Td style={{ overflowWrap: 'anywhere' }}>{say('tally.against', { first: tally.first, second: tally.second })}</Table.Td>
      <Table.Td ta="end">{tally.firstWins} : {tally.secondWins}</Table.Td>
      <Table.Td>
        {found === null ? say('tally.none') : (
          <>
            <div>{say('tally.share.of', { model: ahead, share: percent(found.share), low: percent(found.low), high: percent(found.high) })}</div>
            <Text size="xs" c="dimmed">{decided(found) ? say('tally.decided', { model: ahead }) : say('tally.undecided')}</Text>
          </>
        )}
      </Table.Td>
      <Table.Td ta="end">{tally.ties}</Table.Td>
      <Table.Td ta="end">{tally.bad}</Table.Td>
    </Table.Tr>
  );
}

const percent = (share: number): string => `${(100 * share).toFixed(0)}%`;

function download(text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: 'application/jsonl' }));
  const link = document.createElement('a');
  link.href = address;
  link.download = 'preferences.jsonl';
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
