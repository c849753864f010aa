import { Alert, Anchor, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { Link } from 'wouter';

import { deployment, type Job } from './api';
import { useSay } from './words';

/** Where a deployment stands. It costs money as long as this is to be seen. */
export function Deployed({ job }: { job: Job }) {
  const say = useSay();
  const found = useQuery({
    queryKey: ['finetune', 'deployment', job.id],
    queryFn: ({ signal }) => deployment(job.id, signal),
    refetchInterval: (query) => (query.state.data?.ready ? 60_000 : 10_000),
  });
  const now = found.data;
  return (
    <Alert color="orange" p="sm" title={say('deployed.title')}>
      <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
        {found.error ? found.error.message : now ? say(now.ready ? 'deployed.ready' : 'deployed.waiting', { state: now.state }) : say('deployed.asking')}
      </Text>
      {now?.ready && (
        <Anchor component={Link} href={`/playground?model=${encodeURIComponent(now.chat_model)}`} size="sm" underline="always">
          {say('deployed.try')}
        </Anchor>
      )}
    </Alert>
  );
}
