import { Alert, Button, Group, Text } from '@mantine/core';

import { words } from '../i18n/language';

const useSay = words(
  { failed: 'That did not work', again: 'Try again' },
  { failed: '操作没有成功', again: '重试' },
);

/** What the server said went wrong, and a way to try again where there is one. */
export function Failed({ error, again }: { error: unknown; again?: (() => void) | undefined }) {
  const say = useSay();
  return (
    <Alert color="red" title={say('failed')} role="alert">
      <Group justify="space-between" align="center">
        <Text size="sm" style={{ overflowWrap: 'anywhere', flex: '1 1 16rem' }}>{error instanceof Error ? error.message : String(error)}</Text>
        {again && <Button size="xs" variant="default" onClick={again}>{say('again')}</Button>}
      </Group>
    </Alert>
  );
}
