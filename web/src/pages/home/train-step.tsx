import { Anchor, Button, Group, Progress, Text } from '@mantine/core';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { Link } from 'wouter';

import { answer, api } from '../../api/typed';
import { useLanguage } from '../../i18n/language';
import { duration } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { active, losses, type Samples, type Task, tasks } from './api';
import { linePoints, took, type Tour } from './tour';
import { useSay } from './words';

const USUAL_MINUTES = '1–2';
const [WIDTH, HEIGHT] = [300, 60];

/** Starts a run on the sample data, and shows it until it has ended. */
export function TrainStep({ samples, tour }: { samples: Samples; tour: Tour }) {
  const say = useSay();
  const client = useQueryClient();
  const again = (): Promise<void> => client.invalidateQueries({ queryKey: tasks.queryKey });
  const start = useMutation({ mutationFn: () => answer(api.POST('/train', { body: samples.train })), onSettled: again });
  const { base_model: base, num_epochs: epochs, lora_r: rank } = samples.train;
  const running = tour.run !== null && active(tour.run.status);
  return (
    <>
      <Text c="dimmed">{say('train.why', { base, epochs, rank, minutes: USUAL_MINUTES })}</Text>
      {tour.run && <RunShown task={tour.run} onChange={again} />}
      {start.error && <Failed error={start.error} />}
      {!running && samples.installed && (
        <Button
          w="fit-content"
          variant={tour.run === null ? 'filled' : 'default'}
          loading={start.isPending}
          onClick={() => start.mutate()}
        >
          {say(tour.run === null ? 'train.do' : 'train.again')}
        </Button>
      )}
      {!running && !samples.installed && tour.run === null && <Text>{say('train.before')}</Text>}
    </>
  );
}

function RunShown({ task, onChange }: { task: Task; onChange: () => Promise<void> }) {
  const say = useSay();
  const { language } = useLanguage();
  const cancel = useMutation({ mutationFn: () => answer(api.POST('/train/cancel/{task_id}', { params: { path: { task_id: task.task_id } } })), onSettled: onChange });
  const running = active(task.status);
  const open = <Anchor component={Link} href={`/runs/${task.task_id}`} underline="always">{say('train.open')}</Anchor>;
  const seconds = took(task);
  return (
    <>
      {running && (
        <>
          <Progress value={task.progress} size="lg" animated aria-label={say('now.progress', { name: task.output_dir })} />
          <Text className="numbers" role="status" aria-live="off">{standing(task, say, language)}</Text>
        </>
      )}
      <Curve id={task.task_id} running={running} />
      {task.status === 'completed' && (
        <Text className="name">{say('train.completed', { time: seconds === null ? '–' : duration(seconds, language), adapter: task.output_dir })} {open}</Text>
      )}
      {task.status === 'failed' && <Failed error={say('train.failed', { reason: task.error ?? '–' })} />}
      {task.status === 'canceled' && <Text>{say('train.canceled')} {open}</Text>}
      {cancel.error && <Failed error={cancel.error} />}
      {running && (
        <Group gap="md">
          <Button variant="default" w="fit-content" loading={cancel.isPending} onClick={() => cancel.mutate()}>{say('train.cancel')}</Button>
          {open}
        </Group>
      )}
    </>
  );
}

function standing(task: Task, say: ReturnType<typeof useSay>, language: 'zh' | 'en'): string {
  if (task.status === 'queued') return say('train.queued');
  if (task.current_step === 0) return say('train.beginning');
  const parts = [say('now.step', { step: task.current_step, total: task.total_steps })];
  if (task.loss !== null) parts.push(say('train.loss', { loss: task.loss.toFixed(3) }));
  if (task.tokens_per_second !== null) parts.push(say('train.speed', { count: Math.round(task.tokens_per_second) }));
  if (task.seconds_left !== null) parts.push(say('now.left', { time: duration(task.seconds_left, language) }));
  return parts.join(' · ');
}

function Curve({ id, running }: { id: string; running: boolean }) {
  const say = useSay();
  const found = useQuery(losses(id, running));
  const values = (found.data?.loss ?? []).filter((value): value is number => value !== null);
  const points = linePoints(values, WIDTH, HEIGHT);
  // a run without a curve, or one whose record is gone, keeps no empty place
  if (!points) return running ? <div className="curve" /> : null;
  const text = say('train.curve', { first: values[0]!.toFixed(3), last: values.at(-1)!.toFixed(3), steps: values.length });
  return (
    <figure style={{ margin: 0 }}>
      <svg className="curve" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={text}>
        <polyline points={points} fill="none" stroke="currentColor" strokeWidth={2} vectorEffect="non-scaling-stroke" />
      </svg>
      <Text component="figcaption" size="sm" c="dimmed" className="numbers">{text}</Text>
    </figure>
  );
}
