import { Alert, Box, Paper, Skeleton, Stack, Text, Title } from '@mantine/core';
import { IconAlertTriangle } from '@tabler/icons-react';
import type { ReactNode } from 'react';

import { useSession } from '../../api/session';
import { Command } from '../../parts/command';
import { Failed } from '../../parts/failed';
import { Looks } from './looks';
import { People } from './people';
import { ServerFacts } from './server';
import { Who } from './who';
import { useSay } from './words';

export default function Page() {
  const say = useSay();
  const session = useSession();
  const here = session.data;
  return (
    <Stack gap="md" maw={860}>
      <Title order={1} size="h2">{say('title')}</Title>
      {here?.open_to_network && (
        <Alert color="red" variant="filled" icon={<IconAlertTriangle />} title={say('open.title')} role="alert">
          <Text size="sm" mb="xs">{say('open.text')}</Text>
          <Box c="var(--mantine-color-text)"><Command line="tunesmith serve --host 0.0.0.0" /></Box>
        </Alert>
      )}
      <Section title={say('who')}>
        {session.error && !here && <Failed error={session.error} again={() => void session.refetch()} />}
        {session.isPending && <Skeleton height={64} />}
        {here && <Who session={here} />}
      </Section>
      <Section title={say('looks')}><Looks /></Section>
      {here && <Section title={say(here.admin ? 'people' : 'keys')}><People session={here} /></Section>}
      <Section title={say('server')}>
        {session.isPending && <Skeleton height={120} />}
        {here && <ServerFacts session={here} />}
      </Section>
    </Stack>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Paper withBorder p="md" component="section">
      <Title order={2} size="h4" mb="sm">{title}</Title>
      {children}
    </Paper>
  );
}
