import { ActionIcon, Alert, AppShell, Burger, Center, Group, Loader, NavLink, Text, Title } from '@mantine/core';
import { useComputedColorScheme, useMantineColorScheme } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import {
  IconChartLine, IconCloud, IconDatabase, IconHome, IconMoon, IconScale, IconSettings, IconStack2, IconSun,
  IconColumns2,
} from '@tabler/icons-react';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { type ComponentType, Suspense, useEffect, useRef, useState } from 'react';
import { Link, Route, Router, Switch, useLocation } from 'wouter';

import { Failure } from '../api/client';
import { answer, api } from '../api/typed';
import { useLanguage } from '../i18n/language';
import { Boundary } from '../parts/boundary';
import { fetched } from '../parts/fetched';
import { AskToLogIn } from './login';
import { type Key, useSay } from './words';

interface Page {
  path: string;
  label: Key;
  icon: ComponentType<{ size?: number }>;
  shown: ComponentType;
}

/** Every page, in the order of the navigation. Each is fetched when it is first opened. */
const PAGES: Page[] = [
  { path: '/', label: 'nav.home', icon: IconHome, shown: fetched(() => import('../pages/home')) },
  { path: '/datasets', label: 'nav.datasets', icon: IconDatabase, shown: fetched(() => import('../pages/datasets')) },
  { path: '/runs', label: 'nav.runs', icon: IconChartLine, shown: fetched(() => import('../pages/runs')) },
  { path: '/models', label: 'nav.models', icon: IconStack2, shown: fetched(() => import('../pages/models')) },
  { path: '/playground', label: 'nav.playground', icon: IconColumns2, shown: fetched(() => import('../pages/playground')) },
  { path: '/evaluation', label: 'nav.evaluation', icon: IconScale, shown: fetched(() => import('../pages/evaluation')) },
  { path: '/providers', label: 'nav.providers', icon: IconCloud, shown: fetched(() => import('../pages/providers')) },
  { path: '/settings', label: 'nav.settings', icon: IconSettings, shown: fetched(() => import('../pages/settings')) },
];

/** The frame round every page: navigation, language, theme, and whether the server is there. */
export function App() {
  return (
    <Router base="/app">
      <Frame />
    </Router>
  );
}

function Frame() {
  const say = useSay();
  const [opened, { toggle, close }] = useDisclosure();
  const [location] = useLocation();
  const gone = useGone();
  useEffect(close, [location, close]);
  const here = PAGES.find((page) => page.path !== '/' && location.startsWith(page.path)) ?? PAGES[0]!;
  useEffect(() => {
    document.title = `${say(here.label)} · Tunesmith`;
  }, [here, say]);
  return (
    <AppShell
      header={{ height: 56 }}
      navbar={{ width: 208, breakpoint: 'sm', collapsed: { mobile: !opened } }}
      padding="md"
    >
      <AppShell.Header>
        <a href="#content" className="skip">{say('nav.skip')}</a>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group gap="xs" wrap="nowrap">
            <Burger opened={opened} onClick={toggle} hiddenFrom="sm" size="sm" aria-label={say('nav.open')} />
            <img src="/app/icon.svg" alt="" width={28} height={28} />
            <Text fw={700}>Tunesmith</Text>
          </Group>
          <Group gap="xs" wrap="nowrap">
            <LanguageSwitch />
            <ThemeSwitch />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" component="nav">
        {PAGES.map((page) => (
          <NavLink
            key={page.path}
            component={Link}
            href={page.path}
            label={say(page.label)}
            leftSection={<page.icon size={18} />}
            active={page === here}
            {...(page === here ? { 'aria-current': 'page' as const } : {})}
          />
        ))}
      </AppShell.Navbar>
      <AppShell.Main id="content">
        <ServerGone gone={gone} />
        <AskToLogIn />
        <Boundary resets={`${location} ${gone}`}>
          <Suspense fallback={<Center p="xl"><Loader aria-label={say('loading')} /></Center>}>
            <Switch>
              {PAGES.map((page) => (
                <Route key={page.path} path={page.path === '/' ? '/' : `${page.path}/*?`} component={page.shown} />
              ))}
              <Route><Title order={1} size="h2">{say('missing')}</Title></Route>
            </Switch>
          </Suspense>
        </Boundary>
      </AppShell.Main>
    </AppShell>
  );
}

/** Whether nobody answers now. */
function useGone(): boolean {
  const health = useQuery({ queryKey: ['health'], queryFn: () => answer(api.GET('/health')), refetchInterval: 5_000 });
  return health.error instanceof Failure && health.error.status === 0;
}

function ServerGone({ gone }: { gone: boolean }) {
  const say = useSay();
  const queries = useQueryClient();
  const before = useRef(false);
  const [back, setBack] = useState(false);
  useEffect(() => {
    if (before.current === gone) return;
    before.current = gone;
    setBack(!gone);
    // what failed meanwhile is asked again, without anybody pressing anything
    if (!gone) void queries.invalidateQueries();
  }, [gone, queries]);
  useEffect(() => {
    if (!back) return;
    const timer = setTimeout(() => setBack(false), 8_000);
    return () => clearTimeout(timer);
  }, [back]);
  return (
    <div role="status">
      {gone && <Alert color="red" mb="md" role="presentation">{say('server.gone')}</Alert>}
      {back && <Alert color="green" mb="md" role="presentation">{say('server.back')}</Alert>}
    </div>
  );
}

function LanguageSwitch() {
  const say = useSay();
  const { language, speak } = useLanguage();
  const other = language === 'zh' ? 'en' : 'zh';
  const short = other === 'zh' ? '中' : 'En';
  return (
    <ActionIcon variant="default" size="lg" aria-label={say('language', { other: short })} onClick={() => speak(other)}>
      <Text size="sm" lang={other === 'zh' ? 'zh-CN' : 'en'}>{short}</Text>
    </ActionIcon>
  );
}

function ThemeSwitch() {
  const say = useSay();
  const { setColorScheme } = useMantineColorScheme();
  const now = useComputedColorScheme('light');
  const next = now === 'dark' ? 'light' : 'dark';
  return (
    <ActionIcon variant="default" size="lg" aria-label={say(`theme.${next}`)} onClick={() => setColorScheme(next)}>
      {next === 'dark' ? <IconMoon size={18} /> : <IconSun size={18} />}
    </ActionIcon>
  );
}
