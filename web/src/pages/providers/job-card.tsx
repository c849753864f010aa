import { Alert, Button, Group, Paper, Progress, Stack, Text, Title } from '@mantine/core';
import { useId, useState } from 'react';

import { useLanguage } from '../../i18n/language';
import { duration } from '../../parts/durations';
import { StateBadge } from '../../parts/state-badge';
import { When } from '../../parts/when';
import { type Job, labelOf } from './api';
import { JobActions } from './job-actions';
import { Deployed } from './deployed';
import { moves } from './moving';
import { paid } from './money';
import { useSay } from './words';

const STATES: Record<string, string> = { pending: 'queued', cancelled: 'canceled' };

/** One job: where it stands, what it costs, what can be done with it. */
export function JobCard({ job, changed }: { job: Job; changed: () => Promise<void> }) {
  const say = useSay();
  const { language } = useLanguage();
  const [opened, setOpened] = useState(false);
  const [title, details] = [useId(), useId()];
  const { percent, seconds_left: left, loss } = job.progress;
  const facts = [
    job.provider === 'LOCAL' ? say('here') : labelOf(job.provider),
    job.model_name,
    ...(job.dataset_path ? [job.dataset_path] : []),
    ...(job.cost ? [`${job.cost.estimated ? '≈ ' : ''}${paid(job.cost)}`] : []),
    ...(job.trained_tokens ? [say('job.tokens', { count: job.trained_tokens.toLocaleString('en') })] : []),
  ];
  return (
    <Paper withBorder p="md" component="article" aria-labelledby={title}>
      <Stack gap="xs">
        <Group justify="space-between" gap="xs">
          <Title order={2} size="h5" id={title} style={{ overflowWrap: 'anywhere' }}>{job.name}</Title>
          <Group gap="xs">
            <StateBadge state={STATES[job.status] ?? job.status} stopping={job.cancel_requested} />
            <Text size="sm" c="dimmed" component="span"><When at={job.created_at} /></Text>
          </Group>
        </Group>
        <Text size="sm" c="dimmed" className="numbers" style={{ overflowWrap: 'anywhere' }}>{facts.join(' · ')}</Text>
        {moves(job) && (
          <Group gap="sm" wrap="nowrap">
            <Progress value={percent} style={{ flex: 1 }} aria-label={say('job.progress', { name: job.name })} />
            <Text size="sm" className="numbers">
              {percent.toFixed(0)}%{left !== null ? ` · ${say('job.left', { time: duration(left, language) })}` : ''}
            </Text>
          </Group>
        )}
        {job.status_message && <Text size="sm" style={{ overflowWrap: 'anywhere' }}>{job.status_message}</Text>}
        {job.error && <Alert color="red" p="xs"><Text size="sm" style={{ overflowWrap: 'anywhere' }}>{job.error}</Text></Alert>}
        {job.warnings.map((warning) => <Text key={warning} size="sm">{warning}</Text>)}
        {job.deployment && <Deployed job={job} />}
        <Group gap="xs">
          <Button size="xs" variant="default" aria-expanded={opened} aria-controls={details} onClick={() => setOpened(!opened)}>
            {say(opened ? 'job.less' : 'job.details')}
          </Button>
          <JobActions job={job} changed={changed} />
        </Group>
        <div id={details} hidden={!opened}>{opened && <Details job={job} loss={loss} />}</div>
      </Stack>
    </Paper>
  );
}

function Details({ job, loss }: { job: Job; loss: number | null }) {
  const say = useSay();
  const facts: [string, string | null][] = [
    [say('job.id'), job.id],
    [say('job.provider.id'), job.provider_id],
    [say('job.provider.status'), job.provider_status],
    [say('job.output'), job.fine_tune_model_id],
    [say('job.loss'), loss === null ? null : loss.toFixed(4)],
    [say('job.strategy'), job.data_strategy],
    [say('job.parameters'), Object.entries(job.parameters).map(([name, value]) => `${name} = ${value}`).join(', ')],
    [say('job.by'), job.created_by],
  ];
  return (
    <Stack gap={4} pt="xs">
      {facts.filter(([, value]) => value).map(([name, value]) => (
        <Text key={name} size="sm" style={{ overflowWrap: 'anywhere' }}>
          <Text span c="dimmed" inherit>{name}: </Text>{value}
        </Text>
      ))}
      {job.events.length > 0 && <Text size="sm" c="dimmed" mt="xs">{say('job.events')}</Text>}
      {job.events.map((event, at) => (
        <Text key={at} size="sm" style={{ overflowWrap: 'anywhere' }} component="div">
          <When at={event.at} /> {event.message}
        </Text>
      ))}
    </Stack>
  );
}
