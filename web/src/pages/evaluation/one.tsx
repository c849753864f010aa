import { Alert, Button, Group, Modal, Paper, Progress, Stack, Text, Title } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { Link } from 'wouter';

import { Failure } from '../../api/client';
import { answer, api } from '../../api/typed';
import { useLanguage } from '../../i18n/language';
import { Back } from '../../parts/back';
import { Failed } from '../../parts/failed';
import { StateBadge } from '../../parts/state-badge';
import { Waiting } from '../../parts/waiting';
import { When } from '../../parts/when';
import { datasetOf, type Evaluation, evaluationQuery, live, resultOf } from './api';
import { Figures } from './figures';
import { Rows } from './rows';
import { useSay } from './words';

/** One evaluation: how far it is, or what it found. */
export function One({ id }: { id: string }) {
  const say = useSay();
  const { language } = useLanguage();
  const found = useQuery(evaluationQuery(id, language));
  const missing = found.error instanceof Failure && found.error.status === 404;
  return (
    <Stack>
      <Back to="/evaluation">{say('all')}</Back>
      {found.isPending && <Waiting />}
      {missing && <Alert color="gray">{say('one.gone')}</Alert>}
      {found.error && !missing && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.data && <Shown found={found.data} />}
    </Stack>
  );
}

function Shown({ found }: { found: Evaluation }) {
  const say = useSay();
  const dataset = datasetOf(found);
  const result = resultOf(found);
  return (
    <>
      <Group justify="space-between" align="start">
        <Stack gap={4} style={{ minWidth: 0 }}>
          <Group gap="sm">
            <Title order={1} size="h2" style={{ overflowWrap: 'anywhere' }}>{found.model_name}</Title>
            <StateBadge state={found.status} />
          </Group>
          <Text size="sm" style={{ overflowWrap: 'anywhere' }}>
            {found.adapter && <>{found.base_model} · </>}{dataset && <>{dataset} · </>}
            {say('questions')}: {found.sample_count} · <When at={found.created_at} />
          </Text>
        </Stack>
        <Deeds found={found} dataset={dataset} />
      </Group>
      {found.error && <Alert color="red" title={say('one.failed')}><Text size="sm" style={{ overflowWrap: 'anywhere' }}>{found.error}</Text></Alert>}
      {live(found) && (
        <Paper withBorder p="md">
          <Stack gap="xs">
            <Progress value={found.progress} aria-label={say('progress')} />
            <Text size="sm" className="numbers">
              {found.status === 'queued' ? say('one.waiting') : say('one.done', { done: found.done, total: found.total })}
            </Text>
          </Stack>
        </Paper>
      )}
      {found.verdict && (
        <Paper withBorder p="md" component="section" aria-label={say('verdict')}>
          <Title order={2} size="h4" mb="xs">{say('verdict')}</Title>
          <Text>{found.verdict}</Text>
        </Paper>
      )}
      {result && <Figures result={result} lower={found.lower_is_better} />}
      {result && <Rows id={found.eval_id} result={result} lower={found.lower_is_better} />}
    </>
  );
}

function Deeds({ found, dataset }: { found: Evaluation; dataset: string | null }) {
  const say = useSay();
  const queries = useQueryClient();
  const [asking, { open, close }] = useDisclosure();
  const cancel = useMutation({
    mutationFn: () => answer(api.POST('/evaluate/cancel/{eval_id}', { params: { path: { eval_id: found.eval_id } } })),
    onSuccess: close,
    onSettled: () => void queries.invalidateQueries({ predicate: ({ queryKey }) => String(queryKey[0]).startsWith('evaluation') }),
  });
  const model = encodeURIComponent(found.model_name);
  return (
    <Group gap="sm">
      {live(found) && <Button color="red" variant="outline" onClick={open}>{say('cancel')}</Button>}
      {!live(found) && found.adapter && (
        <Button component={Link} href={`/playground?model=${encodeURIComponent(found.base_model)}&model=${model}`}>{say('try')}</Button>
      )}
      {!live(found) && (
        <Button component={Link} variant="default" href={`/evaluation/new?model=${model}${dataset ? `&dataset=${encodeURIComponent(dataset)}` : ''}`}>{say('again')}</Button>
      )}
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
    </Group>
  );
}
