import { Button, Group, Paper, Stack, Text, Title } from '@mantine/core';
import { IconCheck } from '@tabler/icons-react';
import { useQuery } from '@tanstack/react-query';
import { type ReactNode, useState } from 'react';

import { AskStep } from './ask-step';
import { conversations, kept, type Samples, type Task } from './api';
import { DataStep } from './data-step';
import { conversationOf, isNew, lastAsked, type Standing, standings, tourOf } from './tour';
import { TrainStep } from './train-step';
import { type Key, useSay } from './words';

/** Data, training, a question to both: what a newcomer does first. Every state is the server's. */
export function FirstRun({ samples, tasks }: { samples: Samples; tasks: Task[] }) {
  const say = useSay();
  const tour = tourOf(samples, tasks);
  const talks = useQuery({ ...conversations, enabled: tour.tuned !== null });
  const asked = tour.tuned && talks.data ? lastAsked(talks.data, tour.tuned.task_id) : null;
  const answer = useQuery({
    ...kept(conversationOf(tour.tuned?.task_id ?? '-', asked ?? '-', 'tuned')), enabled: asked !== null,
  });
  const [data, train, ask] = standings(tour, asked !== null && answer.data?.state === 'completed');
  const done = ask === 'done' && train === 'done';
  const [chosen, choose] = useState<boolean | null>(null);
  const opened = chosen ?? isNew(samples, tasks);
  return (
    <Paper withBorder p="md" component="section" aria-label={say('first')}>
      <Group justify="space-between" align="flex-start" wrap="nowrap">
        <div>
          <Title order={2} size="h3">{say('first')}</Title>
          <Text c="dimmed">{say(done ? 'first.done' : 'first.lead')}</Text>
        </div>
        <Button variant="default" size="xs" aria-expanded={opened} onClick={() => choose(!opened)} style={{ flexShrink: 0 }}>
          {say(opened ? 'first.hide' : 'first.show')}
        </Button>
      </Group>
      {opened && (
        <ol className="steps">
          <Step number={1} title="data" standing={data}><DataStep samples={samples} /></Step>
          <Step number={2} title="train" standing={train}><TrainStep samples={samples} tour={tour} /></Step>
          <Step number={3} title="ask" standing={ask}>
            {tour.tuned ? <AskStep key={tour.tuned.task_id} samples={samples} tuned={tour.tuned} last={asked} /> : <Text c="dimmed">{say('ask.before')}</Text>}
          </Step>
        </ol>
      )}
    </Paper>
  );
}

function Step({ number, title, standing, children }: { number: number; title: Key; standing: Standing; children: ReactNode }) {
  const say = useSay();
  return (
    <li className="step" aria-current={standing === 'next' || standing === 'running' ? 'step' : undefined}>
      <div className={`mark ${standing}`} role="img" aria-label={say(`step.${standing}`)}>
        {standing === 'done' ? <IconCheck size={18} aria-hidden /> : <span aria-hidden>{number}</span>}
      </div>
      <Stack gap="sm" miw={0}>
        <Title order={3} size="h4" mt={2}>{say(title)}</Title>
        {children}
      </Stack>
    </li>
  );
}
