import './people.css';

import { Alert, Button, Checkbox, Group, Modal, NativeSelect, SegmentedControl, Skeleton, Stack, Table, Text, TextInput } from '@mantine/core';
import { IconPlus } from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import type { Session } from '../../api/session';
import { Command } from '../../parts/command';
import { Confirm } from '../../parts/confirm';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { type Key, KEYS, keysQuery, type MadeKey, makeKey, revokeKey, usersQuery } from './api';
import { FormDialog } from './dialog';
import { useSay } from './words';

/** API keys: one's own, and everybody's for admins; to be made, and revoked. */
export function Keys({ session }: { session: Session }) {
  const say = useSay();
  const queries = useQueryClient();
  const named = session.wants_token; // else one has no account, and no keys of one's own
  const [all, setAll] = useState(false);
  const [revoked, setRevoked] = useState(false);
  const everybody = session.admin && (all || !named);
  const found = useQuery(keysQuery(everybody, revoked));
  const [making, setMaking] = useState(false);
  const [made, setMade] = useState<MadeKey | null>(null);
  const [asked, ask] = useState<Key | null>(null);
  const changed = () => queries.invalidateQueries({ queryKey: KEYS });
  return (
    <Stack gap="sm">
      <Group justify="space-between">
        <Text size="sm" c="dimmed" style={{ flex: '1 1 16rem' }}>{say('keys.about')}</Text>
        <Button leftSection={<IconPlus size={16} />} onClick={() => setMaking(true)}>{say('keys.make')}</Button>
      </Group>
      <Group gap="md">
        {session.admin && named && (
          <SegmentedControl
            aria-label={say('keys.whose')} value={all ? 'all' : 'own'} onChange={(value) => setAll(value === 'all')}
            data={[{ value: 'own', label: say('keys.own') }, { value: 'all', label: say('keys.all') }]}
          />
        )}
        <Checkbox label={say('keys.revoked.too')} checked={revoked} onChange={(event) => setRevoked(event.currentTarget.checked)} />
      </Group>
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Skeleton height={100} />}
      {found.data?.length === 0 && <Text size="sm">{say(revoked ? 'keys.none.ever' : 'keys.none')}</Text>}
      {found.data && found.data.length > 0 && <Rows keys={found.data} everybody={everybody} ask={ask} />}
      {making && (
        <MakeKey
          named={named} me={session.user} admin={session.admin} close={() => setMaking(false)}
          told={async (key) => {
            setMaking(false);
            setMade(key);
            await changed();
          }}
        />
      )}
      {made && <Shown made={made} close={() => setMade(null)} />}
      <Confirm
        opened={asked !== null} close={() => ask(null)} title={say('keys.revoke.title')} verb={say('keys.revoke')}
        act={async () => {
          if (asked) await revokeKey(asked.id);
          await changed();
        }}
      >
        {say('keys.revoke.text', { label: asked?.label || asked?.id || '', user: asked?.user ?? '' })}
      </Confirm>
    </Stack>
  );
}

function Rows({ keys, everybody, ask }: { keys: Key[]; everybody: boolean; ask: (key: Key) => void }) {
  const say = useSay();
  return (
    <div className="people-place">
      <Table verticalSpacing="xs" className="people" aria-label={say('keys')}>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>{say('keys.label')}</Table.Th>
            {everybody && <Table.Th>{say('keys.user')}</Table.Th>}
            <Table.Th>{say('keys.made')}</Table.Th>
            <Table.Th>{say('keys.used')}</Table.Th>
            <Table.Td />
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {keys.map((key) => (
            <Table.Tr key={key.id}>
              <Table.Td style={{ overflowWrap: 'anywhere' }}>
                <Text size="sm" {...(key.label ? {} : { c: 'dimmed' })}>{key.label || say('keys.unlabelled')}</Text>
                <Text size="xs" c="dimmed" ff="monospace">tsk_{key.id}…</Text>
              </Table.Td>
              {everybody && <Table.Td style={{ overflowWrap: 'anywhere' }} data-label={say('keys.user')}>{key.user}</Table.Td>}
              <Table.Td data-label={say('keys.made')}><When at={key.created_at} /></Table.Td>
              <Table.Td data-label={say('keys.used')}><When at={key.last_used_at} /></Table.Td>
              <Table.Td><div className="people-acts">
                {key.revoked_at ? (
                  <Text size="sm" c="dimmed">{say('keys.revoked')} <When at={key.revoked_at} /></Text>
                ) : (
                  <Button
                    size="xs" variant="default" onClick={() => ask(key)}
                    aria-label={say('keys.revoke.which', { label: key.label || key.id })}
                  >
                    {say('keys.revoke')}…
                  </Button>
                )}
              </div></Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
    </div>
  );
}

interface Making {
  named: boolean;
  me: string;
  admin: boolean;
  told: (key: MadeKey) => Promise<void>;
  close: () => void;
}

function MakeKey({ named, me, admin, told, close }: Making) {
  const say = useSay();
  const users = useQuery({ ...usersQuery, enabled: admin });
  const [label, setLabel] = useState('');
  const [chosen, choose] = useState(named ? me : '');
  const names = (users.data ?? []).filter((user) => !user.disabled).map((user) => user.name);
  const act = async () => told(await makeKey(label.trim(), chosen));
  return (
    <FormDialog title={say('keys.make')} verb={say('keys.make.verb')} ready={chosen !== ''} act={act} close={close} done={() => undefined}>
      <TextInput
        label={say('keys.label')} description={say('keys.label.about')} value={label} maxLength={100} autoComplete="off" data-autofocus
        onChange={(event) => setLabel(event.currentTarget.value)}
      />
      {admin && (
        <NativeSelect
          label={say('keys.user')} description={say('keys.user.about')} value={chosen} required
          data={named ? [...new Set([me, ...names])] : [{ value: '', label: say(users.data && names.length === 0 ? 'keys.user.none' : 'keys.user.choose') }, ...names]}
          onChange={(event) => choose(event.currentTarget.value)}
        />
      )}
      {users.error && <Failed error={users.error} again={() => void users.refetch()} />}
    </FormDialog>
  );
}

/** The key, this once: a click beside the dialog does not lose it. */
function Shown({ made, close }: { made: MadeKey; close: () => void }) {
  const say = useSay();
  return (
    <Modal
      opened onClose={close} title={say('keys.shown.title')} centered closeOnClickOutside={false} closeOnEscape={false} size="lg"
      lockScroll={false} // it would put a style element into the page, which the policy refuses
      closeButtonProps={{ 'aria-label': say('close') }}
    >
      <Stack>
        <Alert color="orange" p="sm"><Text size="sm">{say('keys.shown.text', { user: made.user })}</Text></Alert>
        <Command line={made.key} />
        <Text size="sm" c="dimmed">{say('keys.shown.how')}</Text>
        <Command line={`curl -H "Authorization: Bearer ${made.key}" ${window.location.origin}/models`} />
        <Group justify="flex-end"><Button onClick={close}>{say('keys.shown.done')}</Button></Group>
      </Stack>
    </Modal>
  );
}
