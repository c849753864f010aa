import './home.css';

import { Skeleton, Stack, Text, Title } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';

import { queries } from '../../api/queries';
import { Failed } from '../../parts/failed';
import { library, measured, samples, tasks } from './api';
import { FirstRun } from './first-run';
import { LastCard, ModelsCard, NowCard } from './overview';
import { isNew } from './tour';
import { useSay } from './words';

// asked while the page is drawn for the first time, not after it
void queries.prefetchQuery(samples);
void queries.prefetchQuery(tasks);
void queries.prefetchQuery(measured);
void queries.prefetchQuery(library);

export default function Page() {
  const say = useSay();
  const sample = useQuery(samples);
  const history = useQuery(tasks);
  const error = sample.data && history.data ? null : (sample.error ?? history.error);
  const first = sample.data && history.data && <FirstRun samples={sample.data} tasks={history.data} />;
  const newcomer = sample.data && history.data && isNew(sample.data, history.data);
  const again = (): void => {
    void sample.refetch();
    void history.refetch();
  };
  return (
    <Stack gap="md" className="home">
      <div>
        <Title order={1} size="h2">{say('title')}</Title>
        <Text c="dimmed">{say('lead')}</Text>
      </div>
      {error && <Failed error={error} again={again} />}
      {!first && !error && <Skeleton height={360} radius="md" />}
      {newcomer && first}
      <div className="cards">
        <NowCard />
        <LastCard />
        <ModelsCard />
      </div>
      {!newcomer && first}
    </Stack>
  );
}
