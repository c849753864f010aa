import './people.css';

import { Badge, Button, Checkbox, Group, Skeleton, Stack, Table, Text, TextInput } from '@mantine/core';
import { IconPlus } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { Confirm } from '../../parts/confirm';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { addUser, letIn, type User, USERS, usersQuery } from './api';
import { FormDialog } from './dialog';
import { agreed, NewPassword, NOTHING, SetPassword } from './passwords';
import { useSay } from './words';

type Asked = { what: 'add' } | { what: 'password' | 'disable'; user: User };

/** Who may sign in: to be added, let in no more, let in again, and given another password. For admins. */
export function Users({ me }: { me: string }) {
  const say = useSay();
  const queries = useQueryClient();
  const found = useQuery(usersQuery);
  const [asked, ask] = useState<Asked | null>(null);
  const changed = () => queries.invalidateQueries({ queryKey: USERS });
  const enabling = useMutation({ mutationFn: (name: string) => letIn(name, false), onSuccess: changed });
  const close = () => ask(null);
  const disabling = asked?.what === 'disable' ? asked.user.name : '';
  if (!found.data) return found.error ? <Failed error={found.error} again={() => void found.refetch()} /> : <Skeleton height={140} />;
  return (
    <Stack gap="sm">
      <Group justify="space-between">
        <Text size="sm" c="dimmed" style={{ flex: '1 1 16rem' }}>{say('users.about')}</Text>
        <Button leftSection={<IconPlus size={16} />} onClick={() => ask({ what: 'add' })}>{say('users.add')}</Button>
      </Group>
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {enabling.error && <Failed error={enabling.error} />}
      {found.data.length === 0 ? (
        <Text size="sm">{say('users.none')}</Text>
      ) : (
        <div className="people-place">
          <Table verticalSpacing="xs" className="people" aria-label={say('users')}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>{say('users.name')}</Table.Th>
                <Table.Th>{say('users.state')}</Table.Th>
                <Table.Th>{say('users.seen')}</Table.Th>
                <Table.Td />
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {found.data.map((user) => (
                <Row
                  key={user.name} user={user} me={user.name === me} ask={ask}
                  enable={() => enabling.mutate(user.name)} busy={enabling.isPending && enabling.variables === user.name}
                />
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      {asked?.what === 'add' && <AddUser close={close} />}
      {asked?.what === 'password' && <SetPassword name={asked.user.name} close={close} />}
      <Confirm
        opened={disabling !== ''} close={close} title={say('users.disable.title', { name: disabling })} verb={say('users.disable')}
        act={async () => {
          await letIn(disabling, true);
          await changed();
        }}
      >
        {say('users.disable.text', { name: disabling })}
        {disabling === me && <Text size="sm" fw={600} mt="xs">{say('users.disable.me')}</Text>}
      </Confirm>
    </Stack>
  );
}

interface RowProps {
  user: User;
  me: boolean;
  ask: (asked: Asked) => void;
  enable: () => void;
  busy: boolean;
}

function Row({ user, me, ask, enable, busy }: RowProps) {
  const say = useSay();
  const { name } = user;
  return (
    <Table.Tr>
      <Table.Td style={{ overflowWrap: 'anywhere' }}>
        <Text size="sm" fw={600} component="span">{name}</Text>{me && <Text size="sm" component="span"> {say('users.me')}</Text>}
        <Text size="xs" c="dimmed">{say(user.role === 'admin' ? 'who.admin' : 'who.member')} · {say('users.added')} <When at={user.created_at} /></Text>
      </Table.Td>
      <Table.Td data-label={say('users.state')}>
        <Badge variant="outline" className="people-badge" tt="none" color="gray" c={user.disabled ? 'dimmed' : 'var(--mantine-color-anchor)'}>
          {say(user.disabled ? 'users.disabled' : 'users.enabled')}
        </Badge>
      </Table.Td>
      <Table.Td data-label={say('users.seen')}><When at={user.last_login_at} /></Table.Td>
      <Table.Td>
        <div className="people-acts">
          {!me && (
            <Button size="xs" variant="default" aria-label={say('password.set.which', { name })} onClick={() => ask({ what: 'password', user })}>
              {say('password.set')}…
            </Button>
          )}
          {user.disabled ? (
            <Button size="xs" variant="default" loading={busy} aria-label={say('users.enable.title', { name })} onClick={enable}>{say('users.enable')}</Button>
          ) : (
            <Button size="xs" variant="default" aria-label={say('users.disable.title', { name })} onClick={() => ask({ what: 'disable', user })}>
              {say('users.disable')}…
            </Button>
          )}
        </div>
      </Table.Td>
    </Table.Tr>
  );
}

function AddUser({ close }: { close: () => void }) {
  const say = useSay();
  const queries = useQueryClient();
  const [name, setName] = useState('');
  const [admin, setAdmin] = useState(false);
  const [typed, type] = useState(NOTHING);
  const act = async () => {
    await addUser(name.trim(), typed.first, admin);
    await queries.invalidateQueries({ queryKey: USERS });
  };
  return (
    <FormDialog title={say('users.add')} verb={say('users.add.verb')} ready={name.trim() !== '' && agreed(typed)} act={act} close={close}>
      <TextInput
        label={say('users.name')} description={say('users.name.rule')} value={name} required autoComplete="off" data-autofocus
        onChange={(event) => setName(event.currentTarget.value)}
      />
      <NewPassword typed={typed} type={type} />
      <Checkbox
        label={say('users.admin')} description={say('users.admin.about')} checked={admin}
        onChange={(event) => setAdmin(event.currentTarget.checked)}
      />
    </FormDialog>
  );
}
