import { Button, Group, Modal, Stack, Text } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import type { ReactNode } from 'react';

import { words } from '../i18n/language';
import { Failed } from './failed';

const useSay = words({ cancel: 'Cancel', close: 'Close' }, { cancel: '取消', close: '关闭' });

interface Props {
  opened: boolean;
  title: string;
  /** what will happen, and what will not */
  children: ReactNode;
  /** the verb on the button */
  verb: string;
  /** what is done; the dialog stays, and says why, where it fails */
  act: () => Promise<unknown>;
  close: () => void;
  color?: string;
}

/** Asks before something is done that cannot be taken back. */
export function Confirm({ opened, title, children, verb, act, close, color = 'red' }: Props) {
  const say = useSay();
  const doing = useMutation({ mutationFn: act, onSuccess: close });
  const leave = () => {
    doing.reset();
    close();
  };
  return (
    <Modal
      opened={opened}
      onClose={leave}
      title={title}
      centered
      lockScroll={false} // it would put a style element into the page, which the policy refuses
      closeButtonProps={{ 'aria-label': say('close') }}
    >
      <Stack>
        <Text component="div" size="sm" style={{ overflowWrap: 'anywhere' }}>{children}</Text>
        {doing.error && <Failed error={doing.error} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={leave} data-autofocus>{say('cancel')}</Button>
          <Button color={color} loading={doing.isPending} onClick={() => doing.mutate()}>{verb}</Button>
        </Group>
      </Stack>
    </Modal>
  );
}
