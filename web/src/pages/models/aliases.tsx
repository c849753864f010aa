import { Badge, Button, Group, List, Modal, Stack, Text } from '@mantine/core';
import { useState } from 'react';

import { Confirm } from '../../parts/confirm';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { type Adapter, type Alias, rollBack, unalias, useAliases, useChange, useMoves } from './api';
import { Section } from './overview';
import { Promote } from './promote';
import { useSay } from './words';

type Asked = { what: 'back' | 'remove'; alias: Alias } | null;

/** Names that clients ask for, and where they point. */
export function AliasList({ adapters }: { adapters: Adapter[] }) {
  const say = useSay();
  const found = useAliases();
  const [confirmed, ask] = useState<Asked>(null);
  const [history, setHistory] = useState<string | null>(null);
  const [promoting, setPromoting] = useState<string | null>(null);
  const goBack = useChange(rollBack);
  const forget = useChange(unalias);
  if (found.error) return <Failed error={found.error} again={() => void found.refetch()} />;
  if (!found.data || (found.data.length === 0 && adapters.length === 0)) return null;
  return (
    <Section title={say('aliases')} text={say('alias.text')}>
      {found.data.length === 0 && <Text>{say('alias.none')}</Text>}
      {found.data.map((each) => (
        <Group key={each.name} justify="space-between" py={6} style={{ borderBottom: '1px solid var(--mantine-color-default-border)' }}>
          <Group gap="xs" style={{ flex: '1 1 14rem' }}>
            <Text fw={600}>{each.name}</Text>→<Badge tt="none" variant="default">{each.version}</Badge>
            <Text size="sm" className="quiet"><When at={each.moved_at} /></Text>
          </Group>
          <Group gap="xs">
            <Button size="xs" variant="default" aria-label={say('alias.history.one', { alias: each.name })} onClick={() => setHistory(each.name)}>{say('alias.history')}</Button>
            <Button size="xs" variant="default" aria-label={say('alias.back.one', { alias: each.name })} onClick={() => ask({ what: 'back', alias: each })}>{say('alias.back')}</Button>
            <Button size="xs" variant="default" aria-label={say('alias.remove.one', { alias: each.name })} onClick={() => ask({ what: 'remove', alias: each })}>{say('alias.remove')}</Button>
          </Group>
        </Group>
      ))}
      {adapters.length > 0 && (
        <Button mt="sm" size="xs" variant="light" onClick={() => setPromoting(adapters[0]!.name)}>
          {say('alias.promote')}
        </Button>
      )}
      <Promote adapter={promoting} adapters={adapters} close={() => setPromoting(null)} />
      <Confirm
        opened={confirmed !== null} close={() => ask(null)} color={confirmed?.what === 'back' ? 'cyan' : 'red'}
        title={confirmed ? say(`alias.${confirmed.what}.title`, { alias: confirmed.alias.name }) : ''}
        verb={say(confirmed?.what === 'back' ? 'alias.back' : 'alias.remove')}
        act={async () => {
          if (confirmed) await (confirmed.what === 'back' ? goBack : forget).mutateAsync(confirmed.alias.name);
        }}
      >
        {confirmed && say(`alias.${confirmed.what}.text`, { alias: confirmed.alias.name, version: confirmed.alias.version })}
      </Confirm>
      <History alias={history} close={() => setHistory(null)} />
    </Section>
  );
}

function History({ alias, close }: { alias: string | null; close: () => void }) {
  const say = useSay();
  const found = useMoves(alias ?? '', alias !== null);
  return (
    <Modal
      opened={alias !== null} onClose={close} lockScroll={false} title={alias ? say('alias.history.one', { alias }) : ''}
      closeButtonProps={{ 'aria-label': say('close') }}
    >
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      <List spacing="xs">
        {found.data?.map((each) => (
          <List.Item key={each.serial}>
            <Stack gap={0}>
              <Text fw={600}>{each.version ?? '–'} <Text component="span" size="sm" className="quiet">{each.kind}</Text></Text>
              <Text size="sm"><When at={each.moved_at} />{each.moved_by && ` · ${each.moved_by}`}</Text>
            </Stack>
          </List.Item>
        ))}
      </List>
    </Modal>
  );
}
