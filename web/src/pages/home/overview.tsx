import { Anchor, Badge, Group, Paper, Progress, Skeleton, Stack, Text, Title } from '@mantine/core';
import { useQuery, type UseQueryResult } from '@tanstack/react-query';
import type { ReactNode } from 'react';
import { Link } from 'wouter';

import { useLanguage } from '../../i18n/language';
import { duration } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { StateBadge } from '../../parts/state-badge';
import { When } from '../../parts/when';
import { active, library, type Measured, measured, type Task, tasks } from './api';
import { useSay } from './words';

const SHOWN = 4;

function Card({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Paper withBorder p="md" className="card" component="section" aria-label={title}>
      <Stack gap="sm">
        <Title order={2} size="h4">{title}</Title>
        {children}
      </Stack>
    </Paper>
  );
}

/** The first failure among `queries` that have nothing to show, or a place kept while they load. */
function pending(queries: UseQueryResult<unknown>[]): ReactNode {
  const failed = queries.find((query) => query.error && query.data === undefined);
  if (failed) return <Failed error={failed.error} again={() => void failed.refetch()} />;
  return queries.some((query) => query.data === undefined) ? <Skeleton height={96} /> : null;
}

/** What runs or waits, with its progress. */
export function NowCard() {
  const say = useSay();
  const runs = useQuery(tasks);
  const evaluations = useQuery(measured);
  const now = runs.data?.filter((task) => active(task.status)) ?? [];
  const judged = evaluations.data?.filter((each) => active(each.status)) ?? [];
  return (
    <Card title={say('now')}>
      {pending([runs]) ?? (
        <>
          {now.map((task) => <RunningTask key={task.task_id} task={task} />)}
          {judged.map((each) => <RunningEvaluation key={each.eval_id} found={each} />)}
          {now.length + judged.length === 0 && (
            <Text c="dimmed">{say('now.none')} <Anchor component={Link} href="/runs/new" underline="always">{say('now.start')}</Anchor></Text>
          )}
        </>
      )}
    </Card>
  );
}

function RunningTask({ task }: { task: Task }) {
  const say = useSay();
  const { language } = useLanguage();
  const parts = task.status === 'queued' ? [say('now.queued')] : [say('now.step', { step: task.current_step, total: task.total_steps })];
  if (task.status === 'running' && task.seconds_left !== null) parts.push(say('now.left', { time: duration(task.seconds_left, language) }));
  return (
    <div>
      <Group justify="space-between" wrap="nowrap" gap="xs">
        <Anchor component={Link} href={`/runs/${task.task_id}`} className="name" underline="always">{task.output_dir}</Anchor>
        <StateBadge state={task.status} />
      </Group>
      <Progress value={task.progress} my={6} aria-label={say('now.progress', { name: task.output_dir })} />
      <Text size="sm" c="dimmed" className="numbers">{parts.join(' · ')}</Text>
    </div>
  );
}

function RunningEvaluation({ found }: { found: Measured }) {
  const say = useSay();
  const name = say('now.evaluation', { model: found.model_name });
  return (
    <div>
      <Group justify="space-between" wrap="nowrap" gap="xs">
        <Anchor component={Link} href={`/evaluation/${found.eval_id}`} className="name" underline="always">{name}</Anchor>
        <StateBadge state={found.status} />
      </Group>
      <Progress value={found.progress} my={6} aria-label={say('now.progress', { name })} />
    </div>
  );
}

/** Runs and evaluations that ended, the newest first. */
export function LastCard() {
  const say = useSay();
  const runs = useQuery(tasks);
  const evaluations = useQuery(measured);
  const ended = [
    ...(runs.data ?? []).map((task) => ({
      id: task.task_id, at: task.completed_at, state: task.status, name: task.output_dir, path: `/runs/${task.task_id}`,
    })),
    ...(evaluations.data ?? []).map((each) => ({
      id: each.eval_id, at: each.completed_at, state: each.status, name: say('last.evaluation', { model: each.model_name }),
      path: `/evaluation/${each.eval_id}`,
    })),
  ].filter((each) => !active(each.state)).sort((one, other) => (other.at ?? '').localeCompare(one.at ?? ''));
  return (
    <Card title={say('last')}>
      {pending([runs]) ?? (
        <>
          {ended.length === 0 && <Text c="dimmed">{say('last.none')}</Text>}
          {ended.slice(0, SHOWN).map((each) => (
            <div key={each.id}>
              <Group justify="space-between" wrap="nowrap" gap="xs">
                <Anchor component={Link} href={each.path} className="name" underline="always">{each.name}</Anchor>
                <StateBadge state={each.state} />
              </Group>
              <Text size="sm" c="dimmed"><When at={each.at} /></Text>
            </div>
          ))}
          {ended.length > 0 && <Anchor component={Link} href="/runs" size="sm">{say('last.runs')}</Anchor>}
        </>
      )}
    </Card>
  );
}

/** What can be asked: what is loaded, the base models, the newest adapters. */
export function ModelsCard() {
  const say = useSay();
  const found = useQuery(library);
  return (
    <Card title={say('models')}>
      {pending([found]) ?? (
        <>
          <Named title={say('models.loaded')}>
            {found.data!.loaded.map((each) => (
              <Group key={each.name} gap="xs">
                <span className="name">{each.name}</span>
                {each.is_current && <Badge variant="outline" color="gray" tt="none" fw={500} className="state">{say('models.current')}</Badge>}
              </Group>
            ))}
          </Named>
          <Named title={say('models.bases')}>
            {found.data!.bases.slice(0, SHOWN).map((each) => <div key={each.name} className="name">{each.name}</div>)}
          </Named>
          <Named title={say('models.adapters')}>
            {found.data!.adapters.length === 0 && <Text size="sm" c="dimmed">{say('models.none')}</Text>}
            {found.data!.adapters.slice(0, SHOWN).map((each) => (
              <div key={each.name}>
                <span className="name">{each.name}</span>
                <Text size="sm" c="dimmed">{say('on', { base: each.base_model })} · <When at={each.created_at} /></Text>
              </div>
            ))}
          </Named>
          <Anchor component={Link} href="/models" size="sm">{say('models.all')}</Anchor>
        </>
      )}
    </Card>
  );
}

function Named({ title, children }: { title: string; children: ReactNode }) {
  return (
    <div>
      <Text size="xs" c="dimmed" fw={600}>{title}</Text>
      {children}
    </div>
  );
}
