import { Alert, Button, Text } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { useState } from 'react';

import { Confirm } from '../../parts/confirm';
import { Failed } from '../../parts/failed';
import { cancel, deploy, fetchAdapter, forget, type Job, undeploy } from './api';
import { moves } from './moving';
import { type Key, useSay } from './words';

type Act = 'cancel' | 'deploy' | 'undeploy' | 'forget';
const CALLS: Record<Act, (id: string) => Promise<unknown>> = { cancel, deploy, undeploy, forget };

/** What can be done with the job as it stands; whatever costs money or cannot be taken back is asked for twice. */
export function JobActions({ job, changed }: { job: Job; changed: () => Promise<void> }) {
  const say = useSay();
  const [asked, ask] = useState<Act | null>(null);
  const fetching = useMutation({ mutationFn: () => fetchAdapter(job.id) });
  const tuned = job.provider !== 'LOCAL' && job.status === 'completed';
  const acts: Act[] = [
    ...(moves(job) && !job.cancel_requested ? ['cancel' as const] : []),
    ...(tuned && !job.deployment ? ['deploy' as const] : []),
    ...(job.deployment ? ['undeploy' as const] : []),
    ...(moves(job) || job.deployment ? [] : ['forget' as const]),
  ];
  return (
    <>
      {acts.map((act) => (
        <Button key={act} size="xs" variant="default" onClick={() => ask(act)}>{say(`${act}.verb` as Key)}…</Button>
      ))}
      {tuned && (
        <Button size="xs" variant="default" loading={fetching.isPending} onClick={() => fetching.mutate()}>{say('adapter.verb')}</Button>
      )}
      {fetching.error && <Failed error={fetching.error} />}
      {fetching.data && (
        <Alert color="green" p="xs" role="status">
          <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
            {say('adapter.done', { path: fetching.data.path })} {fetching.data.message ?? ''}
          </Text>
        </Alert>
      )}
      <Confirm
        opened={asked !== null} close={() => ask(null)} title={asked ? say(`${asked}.title` as Key, { name: job.name }) : ''}
        verb={asked ? say(`${asked}.verb` as Key) : ''} color={asked === 'undeploy' ? 'cyan' : 'red'}
        act={async () => {
          if (asked) await CALLS[asked](job.id);
          await changed();
        }}
      >
        {asked && say(`${asked}.text` as Key, { name: job.name })}
      </Confirm>
    </>
  );
}
