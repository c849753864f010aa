import { Button, Group, Modal, Stack } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import type { FormEvent, ReactNode } from 'react';

import { Failed } from '../../parts/failed';
import { useSay } from './words';

interface Props {
  title: string;
  /** the verb on the button */
  verb: string;
  /** whether what is entered may be sent */
  ready: boolean;
  /** what is done; the dialog stays, and says why, where it fails */
  act: () => Promise<unknown>;
  close: () => void;
  /** what follows instead of closing */
  done?: () => void;
  children: ReactNode;
}

/** A form in a dialog; it is there as long as it is opened, so that nothing entered outlives it. */
export function FormDialog({ title, verb, ready, act, close, done = close, children }: Props) {
  const say = useSay();
  const doing = useMutation({ mutationFn: act, onSuccess: done, gcTime: 0 });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (ready && !doing.isPending) doing.mutate();
  };
  return (
    <Modal
      opened onClose={close} title={title} centered closeOnClickOutside={false}
      lockScroll={false} // it would put a style element into the page, which the policy refuses
      closeButtonProps={{ 'aria-label': say('close') }}
    >
      <form onSubmit={submit}>
        <Stack>
          {children}
          {doing.error && <Failed error={doing.error} />}
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>{say('cancel')}</Button>
            <Button type="submit" disabled={!ready} loading={doing.isPending}>{verb}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
