import { Alert, Anchor, Button, Group, Modal, PasswordInput, Stack, Text, TextInput } from '@mantine/core';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { type FormEvent, useCallback, useEffect, useState } from 'react';

import { carries, onRefused } from '../api/client';
import { enterWithKey, logIn } from '../api/session';
import { Failed } from '../parts/failed';
import { useSay } from './words';

/** Asks to log in as soon as a call is refused for want of a token. Whoever puts it off is not asked again and again. */
export function AskToLogIn() {
  const say = useSay();
  const [asked, setAsked] = useState<'no' | 'now' | 'later'>('no');
  const [ended, setEnded] = useState(false);
  useEffect(
    () =>
      onRefused(() => {
        setEnded(carries());
        setAsked((before) => (before === 'later' ? 'later' : 'now'));
      }),
    [],
  );
  const done = useCallback(() => setAsked('no'), []);
  return (
    <>
      {asked === 'later' && (
        <Alert color="orange" mb="md" title={say('login.wanted')}>
          <Button size="xs" variant="default" onClick={() => setAsked('now')}>{say('login')}</Button>
        </Alert>
      )}
      <Modal
        opened={asked === 'now'}
        onClose={() => setAsked('later')}
        title={say('login')}
        centered
        lockScroll={false} // it would put a style element into the page, which the policy refuses
        closeButtonProps={{ 'aria-label': say('login.later') }}
      >
        <Stack>
          <Text size="sm">{say(ended ? 'login.ended' : 'login.wanted')}</Text>
          <LoginForm done={done} />
        </Stack>
      </Modal>
    </>
  );
}

/** Logs in with a name and a password, or with an API key; afterwards everything is asked anew. */
export function LoginForm({ done }: { done?: () => void }) {
  const say = useSay();
  const queries = useQueryClient();
  const [withKey, setWithKey] = useState(false);
  const [name, setName] = useState('');
  const [secret, setSecret] = useState('');
  const entering = useMutation({
    mutationFn: () => (withKey ? enterWithKey(secret.trim()) : logIn(name.trim(), secret)),
    onSuccess: async () => {
      setSecret('');
      done?.();
      await queries.resetQueries();
    },
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    entering.mutate();
  };
  const turn = () => {
    setWithKey(!withKey);
    setSecret('');
    entering.reset();
  };
  return (
    <form onSubmit={submit}>
      <Stack>
        {!withKey && (
          <TextInput
            label={say('login.name')} value={name} required autoComplete="username" data-autofocus
            onChange={(event) => setName(event.currentTarget.value)}
          />
        )}
        <PasswordInput
          key={withKey ? 'key' : 'password'}
          label={say(withKey ? 'login.key' : 'login.password')}
          {...(withKey ? { description: say('login.key.how') } : {})}
          value={secret} required autoComplete={withKey ? 'off' : 'current-password'}
          visibilityToggleButtonProps={{ 'aria-label': say('login.show') }}
          onChange={(event) => setSecret(event.currentTarget.value)}
        />
        {entering.error && <Failed error={entering.error} />}
        <Group justify="space-between">
          <Anchor component="button" type="button" size="sm" onClick={turn}>
            {say(withKey ? 'login.by.password' : 'login.by.key')}
          </Anchor>
          <Button type="submit" loading={entering.isPending}>{say('login')}</Button>
        </Group>
      </Stack>
    </form>
  );
}
