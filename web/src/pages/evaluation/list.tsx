import { Anchor, Button, Group, Paper, Progress, Stack, Table, Text, Title } from '@mantine/core';
import { IconPlus } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { Link } from 'wouter';

import { useLanguage } from '../../i18n/language';
import { Failed } from '../../parts/failed';
import { StateBadge } from '../../parts/state-badge';
import { Waiting } from '../../parts/waiting';
import { When } from '../../parts/when';
import { datasetOf, type Evaluation, evaluationsQuery, live } from './api';
import { useSay } from './words';

/** Every evaluation, newest first. */
export function List() {
  const say = useSay();
  const { language } = useLanguage();
  const found = useQuery(evaluationsQuery(language));
  const all = found.data?.history ?? [];
  return (
    <Stack>
      <Group justify="space-between">
        <Title order={1} size="h2">{say('title')}</Title>
        <Button component={Link} href="/evaluation/new" leftSection={<IconPlus size={16} />}>{say('start')}</Button>
      </Group>
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Waiting />}
      {found.data && all.length === 0 && (
        <Paper withBorder p="xl">
          <Stack align="start">
            <Title order={2} size="h4">{say('empty.title')}</Title>
            <Text maw={720}>{say('empty.text')}</Text>
            <Button component={Link} href="/evaluation/new">{say('start')}</Button>
          </Stack>
        </Paper>
      )}
      {all.length > 0 && <Rows found={all} />}
    </Stack>
  );
}

function Rows({ found }: { found: Evaluation[] }) {
  const say = useSay();
  return (
    <Table.ScrollContainer minWidth={760}>
      <Table verticalSpacing="xs" highlightOnHover className="numbers" aria-label={say('title')}>
        <Table.Thead>
          <Table.Tr>
            {(['model', 'dataset', 'state', 'questions', 'verdict', 'started'] as const).map((key) => <Table.Th key={key}>{say(key)}</Table.Th>)}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {found.map((each) => (
            <Table.Tr key={each.eval_id}>
              <Table.Td style={{ overflowWrap: 'anywhere', maxWidth: 280 }}>
                <Anchor component={Link} href={`/evaluation/${each.eval_id}`} underline="always" fw={600}>{each.model_name}</Anchor>
              </Table.Td>
              <Table.Td style={{ overflowWrap: 'anywhere', maxWidth: 240 }}>{datasetOf(each) ?? '–'}</Table.Td>
              <Table.Td>
                <Stack gap={4}>
                  <Group><StateBadge state={each.status} /></Group>
                  {live(each) && <Progress value={each.progress} aria-label={say('progress')} w={90} />}
                </Stack>
              </Table.Td>
              <Table.Td>{each.sample_count}</Table.Td>
              <Table.Td maw={420}><Text size="sm" lineClamp={3}>{each.verdict ?? each.error ?? '–'}</Text></Table.Td>
              <Table.Td style={{ whiteSpace: 'nowrap' }}><When at={each.created_at} /></Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </Table.ScrollContainer>
  );
}
