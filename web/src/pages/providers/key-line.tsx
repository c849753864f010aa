import { Anchor, Button, Group, PasswordInput, Stack, Text } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { type FormEvent, useState } from 'react';

import { Confirm } from '../../parts/confirm';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { forgetKey, type HeldKey, type Provider, setKey } from './api';
import { useSay } from './words';

interface Shown {
  provider: Provider;
  held: HeldKey[];
  changed: () => Promise<void>;
}

/** Where a provider's key comes from, and how to set or forget one. A key is sent once and never shown again. */
export function KeyLine({ provider, held, changed }: Shown) {
  const say = useSay();
  const [writing, setWriting] = useState(false);
  const [asking, setAsking] = useState(false);
  const used = held[0];
  const stored = held.find((each) => each.source === 'stored');
  return (
    <Stack gap="xs">
      <div>
        <Text size="sm">{used ? say(`key.${used.source}`, { hint: used.hint ? `…${used.hint}` : '', setting: provider.setting }) : say('key.none')}</Text>
        {stored?.set_at && (
          <Text size="sm" c="dimmed" component="div">
            {say('key.by', { name: stored.set_by ?? '' })} <When at={stored.set_at} />
          </Text>
        )}
        {stored && used?.source === 'environment' && <Text size="sm" c="dimmed">{say('key.wins')}</Text>}
        {held.some((each) => !each.opens) && <Text size="sm">{say('key.sealed')}</Text>}
      </div>
      {writing ? (
        <KeyForm provider={provider} changed={changed} close={() => setWriting(false)} />
      ) : (
        <Group gap="xs">
          <Button size="xs" variant={used ? 'default' : 'filled'} onClick={() => setWriting(true)}>
            {say(stored ? 'key.replace' : 'key.set')}
          </Button>
          {stored && <Button size="xs" variant="default" onClick={() => setAsking(true)}>{say('key.forget')}</Button>}
        </Group>
      )}
      <Confirm
        opened={asking} close={() => setAsking(false)} title={say('key.forget.title', { provider: provider.label })}
        verb={say('key.forget')} act={async () => { await forgetKey(provider.key); await changed(); }}
      >
        {say('key.forget.text')}
      </Confirm>
    </Stack>
  );
}

function KeyForm({ provider, changed, close }: { provider: Provider; changed: () => Promise<void>; close: () => void }) {
  const say = useSay();
  const [key, setThis] = useState('');
  const storing = useMutation({
    mutationFn: () => setKey(provider.key, key.trim()),
    onSuccess: async () => {
      setThis('');
      await changed();
      close();
    },
  });
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    storing.mutate();
  };
  return (
    <form onSubmit={submit}>
      <Stack gap="xs">
        <PasswordInput
          label={say('key.label', { provider: provider.label })}
          description={
            <>
              {say('key.where')}{' '}
              <Anchor href={provider.address} target="_blank" rel="noopener" underline="always" inherit>{new URL(provider.address).host}</Anchor>
            </>
          }
          value={key} required data-autofocus autoFocus autoComplete="off"
          visibilityToggleButtonProps={{ 'aria-label': say('key.show') }}
          onChange={(event) => setThis(event.currentTarget.value)}
        />
        {storing.error && <Failed error={storing.error} />}
        <Group gap="xs">
          <Button type="submit" size="xs" loading={storing.isPending} disabled={!key.trim()}>{say('key.store')}</Button>
          <Button size="xs" variant="default" onClick={close}>{say('cancel')}</Button>
        </Group>
      </Stack>
    </form>
  );
}
