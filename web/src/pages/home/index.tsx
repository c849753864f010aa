import { Title } from '@mantine/core';

import { useSay } from './words';

export default function Page() {
  const say = useSay();
  return <Title order={1} size="h2">{say('title')}</Title>;
}
