import { Stack, Tabs, Text, Title } from '@mantine/core';
import { useLocation } from 'wouter';

import { Ordering } from './ordering';
import { JobList } from './job-list';
import { Offers } from './offers';
import { Usage } from './usage';
import { useSay } from './words';

const TABS = ['keys', 'new', 'jobs', 'usage'] as const;
type Tab = (typeof TABS)[number];

/** Its tabs have addresses: /providers, /providers/new, /providers/jobs, /providers/usage. */
export default function Page() {
  const say = useSay();
  const [location, go] = useLocation();
  const named = location.split('/')[2];
  const here: Tab = TABS.find((tab) => tab === named) ?? 'keys';
  const to = (tab: string | null): void => go(tab === 'keys' || tab === null ? '/providers' : `/providers/${tab}`);
  return (
    <Stack gap="md">
      <div>
        <Title order={1} size="h2">{say('title')}</Title>
        <Text c="dimmed">{say('lead')}</Text>
      </div>
      <Tabs value={here} onChange={to} keepMounted={false}>
        <Tabs.List mb="md">
          {TABS.map((tab) => <Tabs.Tab key={tab} value={tab}>{say(`tab.${tab}`)}</Tabs.Tab>)}
        </Tabs.List>
        <Tabs.Panel value="keys"><Offers /></Tabs.Panel>
        <Tabs.Panel value="new"><Ordering made={() => to('jobs')} /></Tabs.Panel>
        <Tabs.Panel value="jobs"><JobList start={() => to('new')} /></Tabs.Panel>
        <Tabs.Panel value="usage"><Usage /></Tabs.Panel>
      </Tabs>
    </Stack>
  );
}
