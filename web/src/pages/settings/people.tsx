import { Alert, Stack, Text, Title } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';

import { Failure } from '../../api/client';
import type { Session } from '../../api/session';
import { usersQuery } from './api';
import { Keys } from './keys';
import { Terminal } from './terminal';
import { Users } from './users';
import { useSay } from './words';

/** Users and API keys as far as who asks may manage them, or why they may not. */
export function People({ session }: { session: Session }) {
  const say = useSay();
  const open = session.open_to_network;
  const users = useQuery({ ...usersQuery, enabled: session.admin && !open });
  const refused = users.error instanceof Failure && users.error.status === 403 ? users.error.message : null;
  if (open || refused !== null) {
    return (
      <Stack gap="md">
        <Alert color="orange" title={say('refused')}><Text size="sm">{refused ?? say('refused.open')}</Text></Alert>
        <Terminal home={session.home} opened />
      </Stack>
    );
  }
  return (
    <Stack gap="xl">
      {session.admin && (
        <Stack gap="sm" component="section">
          <Title order={3} size="h5">{say('users')}</Title>
          <Users me={session.user} />
        </Stack>
      )}
      <Stack gap="sm" component="section">
        {session.admin && <Title order={3} size="h5">{say('keys')}</Title>}
        <Keys session={session} />
      </Stack>
      {session.admin && <Terminal home={session.home} />}
    </Stack>
  );
}
