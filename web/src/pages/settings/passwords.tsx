import { PasswordInput, Text } from '@mantine/core';
import { useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';

import { changePassword, setPassword, USERS } from './api';
import { FormDialog } from './dialog';
import { useSay } from './words';

interface Typed {
  first: string;
  second: string;
}

export const NOTHING: Typed = { first: '', second: '' };
/** Whether a password was typed, twice the same. */
export const agreed = ({ first, second }: Typed): boolean => first !== '' && first === second;

/** A new password, typed twice. */
export function NewPassword({ typed, type, focus = false }: { typed: Typed; type: (typed: Typed) => void; focus?: boolean }) {
  const say = useSay();
  const shared = { required: true, autoComplete: 'new-password', visibilityToggleButtonProps: { 'aria-label': say('password.show') } };
  return (
    <>
      <PasswordInput
        {...shared} label={say('password.new')} description={say('password.rule')} value={typed.first} data-autofocus={focus || undefined}
        onChange={(event) => type({ ...typed, first: event.currentTarget.value })}
      />
      <PasswordInput
        {...shared} label={say('password.again')} value={typed.second}
        error={typed.second !== '' && !typed.first.startsWith(typed.second) && typed.first !== typed.second && say('password.differ')}
        onChange={(event) => type({ ...typed, second: event.currentTarget.value })}
      />
    </>
  );
}

/** Another password for a user who lost theirs. */
export function SetPassword({ name, close }: { name: string; close: () => void }) {
  const say = useSay();
  const queries = useQueryClient();
  const [typed, type] = useState(NOTHING);
  const act = async () => {
    await setPassword(name, typed.first);
    await queries.invalidateQueries({ queryKey: USERS });
  };
  return (
    <FormDialog title={say('password.set.title', { name })} verb={say('password.set')} ready={agreed(typed)} act={act} close={close}>
      <Text size="sm">{say('password.set.text', { name })}</Text>
      <NewPassword typed={typed} type={type} focus />
    </FormDialog>
  );
}

/** Another password for who is logged in. */
export function ChangePassword({ name, close, done }: { name: string; close: () => void; done: () => void }) {
  const say = useSay();
  const [old, setOld] = useState('');
  const [typed, type] = useState(NOTHING);
  const act = () => changePassword(old, typed.first);
  return (
    <FormDialog
      title={say('password.own.title')} verb={say('password.own.verb')} ready={old !== '' && agreed(typed)} act={act} close={close} done={done}
    >
      <Text size="sm">{say('password.own.text')}</Text>
      <input type="text" autoComplete="username" value={name} readOnly hidden /> {/* whose it is, for who keeps passwords */}
      <PasswordInput
        label={say('password.old')} value={old} required autoComplete="current-password" data-autofocus
        visibilityToggleButtonProps={{ 'aria-label': say('password.show') }}
        onChange={(event) => setOld(event.currentTarget.value)}
      />
      <NewPassword typed={typed} type={type} />
    </FormDialog>
  );
}
