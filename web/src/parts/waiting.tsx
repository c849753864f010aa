import { Center, Loader } from '@mantine/core';

import { words } from '../i18n/language';

const useSay = words({ loading: 'Loading…' }, { loading: '加载中……' });

/** Something is on its way. */
export function Waiting() {
  const say = useSay();
  return <Center p="xl"><Loader aria-label={say('loading')} role="status" /></Center>;
}
