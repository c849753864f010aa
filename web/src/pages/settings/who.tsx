import { Alert, Badge, Button, Group, Stack, Text } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { useReducer, useState } from 'react';

import { carries, carry } from '../../api/client';
import type { Session } from '../../api/session';
import { LoginForm } from '../../shell/login';
import { ChangePassword } from './passwords';
import { useSay } from './words';

/** Who the server takes this tab for, and how to be somebody else. */
export function Who({ session }: { session: Session }) {
  const say = useSay();
  const queries = useQueryClient();
  const [entering, setEntering] = useState(false);
  const [changing, setChanging] = useState<'no' | 'now' | 'done'>('no');
  const [, look] = useReducer((times: number) => times + 1, 0);
  const leave = () => {
    carry(null);
    look();
    void queries.resetQueries();
  };
  const done = () => {
    setEntering(false);
    look();
  };
  return (
    <Stack gap="sm">
      <Group gap="xs">
        <Text fw={600} style={{ overflowWrap: 'anywhere' }}>{session.user}</Text>
        <Badge variant="outline" color="gray" c="dimmed" tt="none">{say(session.admin ? 'who.admin' : 'who.member')}</Badge>
      </Group>
      <Text size="sm" c="dimmed">{say(session.wants_token ? 'who.named' : 'who.local')}</Text>
      {!session.wants_token && <Text size="sm" c="dimmed">{say(carries() ? 'who.carries' : 'who.v1')}</Text>}
      <Text size="sm" c="dimmed">{say('who.kept')}</Text>
      {carries() ? (
        <Group>
          {session.wants_token && <Button variant="default" onClick={() => setChanging('now')}>{say('password.own.title')}…</Button>}
          <Button variant="default" onClick={leave}>{say('who.leave')}</Button>
        </Group>
      ) : entering ? (
        <LoginForm done={done} />
      ) : (
        <Group><Button variant="default" onClick={() => setEntering(true)}>{say('who.enter')}</Button></Group>
      )}
      {changing === 'done' && <Alert color="green" p="xs" role="status"><Text size="sm">{say('password.own.done')}</Text></Alert>}
      {changing === 'now' && <ChangePassword name={session.user} close={() => setChanging('no')} done={() => setChanging('done')} />}
    </Stack>
  );
}
