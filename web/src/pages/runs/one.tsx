import { Alert, Button, Group, Modal, Paper, SimpleGrid, Stack, Text, Title } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { type ReactNode, useMemo } from 'react';
import { Link, useLocation } from 'wouter';

import { Failure } from '../../api/client';
import { answer, api } from '../../api/typed';
import { useLanguage } from '../../i18n/language';
import { Back } from '../../parts/back';
import { short } from '../../parts/chart-numbers';
import { bytes, duration, moment } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { StateBadge } from '../../parts/state-badge';
import { Waiting } from '../../parts/waiting';
import { When } from '../../parts/when';
import { executorName, lastPart, live, type RunInFull, runQuery } from './api';
import { Curves } from './curves';
import { Advance } from './list';
import { Log } from './log';
import { NOTHING, usePoints } from './points';
import { Recipe } from './recipe';
import { known, useSay } from './words';

/** One run: where it stands, its curves, its log, its recipe, and what came of it. */
export function One({ id }: { id: string }) {
  const say = useSay();
  const { language } = useLanguage();
  const found = useQuery(runQuery(id, language));
  const run = found.data;
  const missing = found.error instanceof Failure && found.error.status === 404;
  return (
    <Stack>
      <Back to="/runs">{say('all')}</Back>
      {found.isPending && <Waiting />}
      {missing && <Alert color="gray">{say('one.gone')}</Alert>}
      {found.error && !missing && <Failed error={found.error} again={() => void found.refetch()} />}
      {run && <Shown run={run} />}
    </Stack>
  );
}

function Shown({ run }: { run: RunInFull }) {
  const say = useSay();
  const place = executorName(run.executor);
  const ids = useMemo(() => [run.task_id], [run.task_id]);
  const points = usePoints(ids)[run.task_id] ?? NOTHING;
  const named = useMemo(() => [{ name: lastPart(run.output_dir), points }], [run.output_dir, points]);
  return (
    <>
      <Group justify="space-between" align="start">
        <Stack gap={4} style={{ minWidth: 0 }}>
          <Group gap="sm">
            <Title order={1} size="h2" style={{ overflowWrap: 'anywhere' }}>{lastPart(run.output_dir)}</Title>
            <span role="status"><StateBadge state={run.status} stopping={run.cancel_requested} /></span>
          </Group>
          <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
            {run.base_model} · {run.dataset_path} · <When at={run.created_at} />
          </Text>
        </Stack>
        <Deeds run={run} />
      </Group>
      <Notes run={run} place={place} />
      {live(run) && <Advance run={run} />}
      <Figures run={run} validation={points.validation['loss']?.at(-1) ?? null} />
      {run.status === 'completed' && <Outcome run={run} />}
      {(place === null || points.training.step.length > 0) && (
        <Section title={say('curve.title')}><Curves runs={named} ended={!live(run)} /></Section>
      )}
      <Section title={say('recipe.title')}><Recipe run={run} /></Section>
      {place === null && <Section title={say('log.title')}><Log id={run.task_id} /></Section>}
    </>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Paper withBorder p="md" component="section" aria-label={title}>
      <Title order={2} size="h4" mb="sm">{title}</Title>
      {children}
    </Paper>
  );
}

function Notes({ run, place }: { run: RunInFull; place: string | null }) {
  const say = useSay();
  const { language } = useLanguage();
  return (
    <>
      {run.error && (
        <Alert color="red" title={say('one.failed')}>
          <Text size="sm" style={{ whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>{run.error}</Text>
        </Alert>
      )}
      {run.seconds_silent != null && (
        <Alert color="orange">{say('one.silent', { time: duration(run.seconds_silent, language) })}</Alert>
      )}
      {live(run) && run.cancel_requested && <Alert color="orange">{say('one.stopping')}</Alert>}
      {live(run) && place && <Alert color="blue">{say('one.elsewhere', { place })}</Alert>}
      {run.status === 'queued' && !place && !run.cancel_requested && <Alert color="blue">{say('one.waiting')}</Alert>}
    </>
  );
}

function Figures({ run, validation }: { run: RunInFull; validation: number | null }) {
  const say = useSay();
  const { language } = useLanguage();
  const going = run.status === 'running';
  const took = run.completed_at && run.started_at ? (moment(run.completed_at) - moment(run.started_at)) / 1000 : null;
  const stage = run.stage && known(`stage.${run.stage}`) ? say(`stage.${run.stage}` as 'stage.training') : null;
  const scored = run.validation_loss ?? validation;
  const shown: [string, string | null, string | null][] = [
    [say('progress'), run.total_steps ? say('one.steps', { step: run.current_step, total: run.total_steps }) : stage ?? '–',
      going && stage && run.total_steps ? stage : run.current_epoch ? say('one.epoch', { epoch: run.current_epoch, total: run.total_epochs }) : null],
    [say('one.loss'), run.loss == null ? '–' : short(run.loss), null],
    [say('one.validation'), scored == null ? null : short(scored), run.best_step ? say('one.best', { step: run.best_step }) : null],
    [say('one.rate'), going && run.learning_rate != null ? short(run.learning_rate) : null, null],
    [say('one.speed'), run.tokens_per_second ? say('one.perSecond', { count: short(Math.round(run.tokens_per_second)) }) : null, null],
    going
      ? [say('one.left'), run.seconds_left == null || run.current_step === 0 ? '–' : duration(run.seconds_left, language), null]
      : [say('one.took'), took == null ? null : duration(took, language), null],
    [say(going ? 'one.memory' : 'one.peak'), run.memory_bytes == null ? null : bytes(run.memory_bytes), null],
    [say('one.control'), run.control?.before != null && run.control.after != null
      ? `${short(run.control.before)} → ${short(run.control.after)}` : null, null],
    [say('one.data'), run.data, null],
  ];
  return (
    <SimpleGrid cols={{ base: 2, sm: 3, lg: 4 }} component="dl" m={0} spacing="sm">
      {shown.filter(([, value]) => value !== null).map(([label, value, note]) => (
        <Paper key={label} withBorder p="sm">
          <Text component="dt" size="xs">{label}</Text>
          <Text component="dd" m={0} fw={600} className="numbers" style={{ overflowWrap: 'anywhere' }}>{value}</Text>
          {note && <Text component="dd" m={0} size="xs">{note}</Text>}
        </Paper>
      ))}
    </SimpleGrid>
  );
}

function Outcome({ run }: { run: RunInFull }) {
  const say = useSay();
  const name = encodeURIComponent(run.adapter ?? '');
  return (
    <Section title={say('out.title')}>
      {run.adapter === null ? <Text>{say('out.none', { place: executorName(run.executor) ?? run.executor })}</Text> : (
        <Group justify="space-between">
          <Text style={{ overflowWrap: 'anywhere' }}>{say('out.adapter')}: <code>{run.adapter}</code></Text>
          <Group gap="sm">
            <Button component={Link} href={`/playground?model=${encodeURIComponent(run.base_model)}&model=${name}`}>{say('out.try')}</Button>
            <Button component={Link} variant="default" href={`/evaluation/new?model=${name}`}>{say('out.measure')}</Button>
          </Group>
        </Group>
      )}
    </Section>
  );
}

function Deeds({ run }: { run: RunInFull }) {
  const say = useSay();
  const [, go] = useLocation();
  const queries = useQueryClient();
  const [asking, { open, close }] = useDisclosure();
  const again = () => void queries.invalidateQueries({ predicate: ({ queryKey }) => queryKey[0] === 'run' || queryKey[0] === 'runs' });
  const cancel = useMutation({
    mutationFn: () => answer(api.POST('/train/cancel/{task_id}', { params: { path: { task_id: run.task_id } } })),
    onSettled: again,
    onSuccess: close,
  });
  const resume = useMutation({
    mutationFn: () => answer(api.POST('/train/resume/{task_id}', { params: { path: { task_id: run.task_id } } })),
    onSuccess: ({ task_id }) => { again(); go(`/runs/${task_id}`); },
  });
  return (
    <Stack gap="xs" align="end">
      <Group gap="sm">
        {live(run) && !run.cancel_requested && <Button color="red" variant="outline" onClick={open}>{say('cancel')}</Button>}
        {run.resumable && (
          <Button loading={resume.isPending} title={say('resume.text')} onClick={() => resume.mutate()}>{say('resume')}</Button>
        )}
        {!live(run) && run.executor === 'local' && (
          <Button component={Link} variant="default" href={`/runs/new?from=${run.task_id}`}>{say('again')}</Button>
        )}
      </Group>
      {resume.error && <Failed error={resume.error} />}
      <Modal opened={asking} onClose={close} lockScroll={false} title={say('cancel.sure')} closeButtonProps={{ 'aria-label': say('close') }}>
        <Stack>
          <Text>{say('cancel.text')}</Text>
          {cancel.error && <Failed error={cancel.error} />}
          <Group justify="end">
            <Button variant="default" onClick={close} data-autofocus>{say('cancel.no')}</Button>
            <Button color="red" variant="outline" loading={cancel.isPending} onClick={() => cancel.mutate()}>{say('cancel')}</Button>
          </Group>
        </Stack>
      </Modal>
    </Stack>
  );
}
