import { Button, Group, SegmentedControl, Skeleton, Stack, Text } from '@mantine/core';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useSearchParams } from 'wouter';

import { Failed } from '../../parts/failed';
import { jobs } from './api';
import { JobCard } from './job-card';
import { moves } from './moving';
import { useSay } from './words';

const KEY = ['finetune', 'jobs'];
const MOST = 100;

/** Jobs at providers, and on wish those of this machine; what moves is looked at every few seconds. */
export function JobList({ start }: { start: () => void }) {
  const say = useSay();
  const queries = useQueryClient();
  const [asked, ask] = useSearchParams();
  const all = asked.get('of') === 'all';
  const found = useQuery({
    queryKey: KEY,
    queryFn: ({ signal }) => jobs(false, signal),
    refetchInterval: (query) => (query.state.data?.some(moves) ? 4_000 : 20_000),
  });
  const asking = useMutation({ mutationFn: () => jobs(true), onSuccess: (now) => queries.setQueryData(KEY, now) });
  const changed = (): Promise<void> => queries.invalidateQueries({ queryKey: KEY });
  const shown = found.data?.filter((job) => all || job.provider !== 'LOCAL');
  return (
    <Stack gap="md">
      <Group justify="space-between">
        <SegmentedControl
          aria-label={say('jobs.which')} value={all ? 'all' : 'hosted'}
          data={[{ value: 'hosted', label: say('jobs.hosted') }, { value: 'all', label: say('jobs.all') }]}
          onChange={(value) => ask(value === 'all' ? { of: 'all' } : {}, { replace: true })}
        />
        <Group gap="xs">
          <Button variant="default" loading={asking.isPending} onClick={() => asking.mutate()}>{say('jobs.ask')}</Button>
          <Button onClick={start}>{say('tab.new')}</Button>
        </Group>
      </Group>
      {asking.error && <Failed error={asking.error} again={() => asking.mutate()} />}
      {found.error && !found.data && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Skeleton height={120} />}
      {shown?.length === 0 && <Text c="dimmed">{say(found.data?.length ? 'jobs.none.hosted' : 'jobs.none')}</Text>}
      {shown?.slice(0, MOST).map((job) => <JobCard key={job.id} job={job} changed={changed} />)}
      {shown && shown.length > MOST && <Text size="sm" c="dimmed">{say('jobs.more', { count: shown.length - MOST })}</Text>}
    </Stack>
  );
}
