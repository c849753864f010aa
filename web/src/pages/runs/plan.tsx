import { Alert, Button, Group, List, Paper, SimpleGrid, Stack, Text, Title } from '@mantine/core';

import { useLanguage } from '../../i18n/language';
import { short } from '../../parts/chart-numbers';
import { bytes, duration } from '../../parts/durations';
import type { Plan } from './api';
import { useSay } from './words';

interface Given {
  plan: Plan;
  stale: boolean;
  apply: (changes: Plan['remedies'][number]['changes']) => void;
}

/** What a run would take, and what would make it fit. */
export function Planned({ plan, stale, apply }: Given) {
  const say = useSay();
  const { language } = useLanguage();
  const room = (of: { needed_bytes: number; free_bytes: number }) =>
    say('plan.of', { needed: bytes(of.needed_bytes), free: bytes(of.free_bytes) });
  const whole = (count: number) => count.toLocaleString('en');
  const shown: [string, string][] = [
    [say('plan.time'), duration(plan.seconds, language)],
    [say('plan.steps'), whole(plan.total_steps)],
    [say('plan.samples'), whole(plan.samples) + (plan.skipped ? ` (${say('plan.skipped', { count: plan.skipped })})` : '')],
    [say('plan.tokens'), `${whole(plan.total_tokens)} (${say('plan.trained')} ${whole(plan.trained_tokens)})`],
    [say('plan.memory'), room(plan.memory)],
    [say('plan.disk'), room(plan.disk)],
    [say('plan.speed'), say('one.perSecond', { count: short(Math.round(plan.tokens_per_second)) })],
    [say('plan.cut'), `${plan.cut_samples} %`],
    [say('plan.device'), plan.device],
  ];
  return (
    <Paper withBorder p="md" role="status">
      <Stack gap="sm">
        <Title order={2} size="h4">{say(plan.fits ? 'plan.fits' : 'plan.not')}</Title>
        {stale && <Alert color="orange">{say('plan.stale')}</Alert>}
        <Text>{plan.message}</Text>
        {plan.note && <Text size="sm">{plan.note}</Text>}
        <SimpleGrid cols={{ base: 1, xs: 2, md: 3 }} component="dl" m={0}>
          {shown.map(([label, value]) => (
            <div key={label}>
              <Text component="dt" size="xs">{label}</Text>
              <Text component="dd" m={0} fw={600} className="numbers">{value}</Text>
            </div>
          ))}
        </SimpleGrid>
        {plan.remedies.length > 0 && (
          <>
            <Title order={3} size="h5">{say('plan.remedies')}</Title>
            <List spacing="xs" listStyleType="none">
              {plan.remedies.map((remedy) => (
                <List.Item key={remedy.message}>
                  <Group gap="sm"><Text size="sm">{remedy.message}</Text><Button size="compact-xs" variant="default" onClick={() => apply(remedy.changes)}>{say('plan.apply')}</Button></Group>
                </List.Item>
              ))}
            </List>
          </>
        )}
      </Stack>
    </Paper>
  );
}
