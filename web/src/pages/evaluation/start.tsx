import { Button, Checkbox, Group, NumberInput, SimpleGrid, Stack, Switch, Title } from '@mantine/core';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { type FormEvent, useRef, useState } from 'react';
import { useLocation, useSearch } from 'wouter';

import { answer, api } from '../../api/typed';
import { Back } from '../../parts/back';
import { DatasetSelect } from '../../parts/dataset-select';
import { Failed } from '../../parts/failed';
import { kindOf, useKnownModels } from '../../parts/known-models';
import { ModelSelect } from '../../parts/model-select';
import { useSay } from './words';

const METRICS = ['exact_match', 'perplexity', 'bleu', 'rouge'] as const;
const MOST = 10_000;
const LONGEST = 4_096;
const ORDER: ('label' | 'input' | 'description' | 'error')[] = ['label', 'input', 'description', 'error'];

/** Starts an evaluation; `?model=` and `?dataset=` fill in what is known. */
export function Start() {
  const say = useSay();
  const [, go] = useLocation();
  const asked = new URLSearchParams(useSearch());
  const queries = useQueryClient();
  const known = useKnownModels();
  const form = useRef<HTMLFormElement>(null);
  const [model, setModel] = useState<string | null>(asked.get('model'));
  const [dataset, setDataset] = useState(asked.get('dataset') ?? '');
  const [metrics, setMetrics] = useState<string[]>([...METRICS]);
  const [limit, setLimit] = useState<number | string>(200);
  const [tokens, setTokens] = useState<number | string>(128);
  const [compare, setCompare] = useState(true);
  const [checked, setChecked] = useState(false);
  const chosen = known.data?.find((each) => each.id === model);
  const bare = chosen !== undefined && kindOf(chosen) === 'base';
  const start = useMutation({
    mutationFn: () =>
      answer(api.POST('/evaluate/dataset', {
        body: {
          model_name: model, dataset_path: dataset.trim(), metrics, limit: Number(limit), max_tokens: Number(tokens),
          compare: compare && !bare,
        },
      })),
    onSuccess: ({ eval_id }) => {
      void queries.invalidateQueries({ queryKey: ['evaluations'] });
      go(`/evaluation/${eval_id}`);
    },
  });
  const wrong = {
    model: model ? null : say('form.needed'),
    dataset: dataset.trim() ? null : say('form.needed'),
    metrics: metrics.length ? null : say('form.metric'),
    limit: whole(limit, MOST) ? null : say('form.limit.help', { low: 1, high: MOST }),
    tokens: whole(tokens, LONGEST) ? null : say('form.tokens.help'),
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setChecked(true);
    if (Object.values(wrong).every((each) => each === null)) start.mutate();
    else requestAnimationFrame(() => form.current?.querySelector<HTMLElement>('[aria-invalid=true]')?.focus());
  };
  const fault = (name: keyof typeof wrong) => (checked ? wrong[name] : null);
  return (
    <Stack maw={960}>
      <Back to="/evaluation">{say('all')}</Back>
      <Title order={1} size="h2">{say('form.title')}</Title>
      <form onSubmit={submit} ref={form} noValidate>
        <Stack>
          <SimpleGrid cols={{ base: 1, sm: 2 }}>
            <ModelSelect label={say('model')} description={say('form.model.help')} withAsterisk value={model} onChange={setModel} error={fault('model')} inputWrapperOrder={ORDER} />
            <DatasetSelect label={say('dataset')} description={say('form.dataset.help')} withAsterisk value={dataset} onChange={setDataset} error={fault('dataset')} inputWrapperOrder={ORDER} />
            <NumberInput
              label={say('form.limit')}
              description={say('form.limit.help', { low: 1, high: MOST.toLocaleString('en') })}
              value={limit}
              onChange={setLimit}
              allowDecimal={false}
              error={fault('limit')}
              inputWrapperOrder={ORDER}
            />
            <NumberInput
              label={say('form.tokens')}
              description={say('form.tokens.help')}
              value={tokens}
              onChange={setTokens}
              allowDecimal={false}
              error={fault('tokens')}
              inputWrapperOrder={ORDER}
            />
          </SimpleGrid>
          <Checkbox.Group label={say('form.metrics')} value={metrics} onChange={setMetrics} error={fault('metrics')}>
            <SimpleGrid cols={{ base: 1, sm: 2 }} mt="xs">
              {METRICS.map((each) => (
                <Checkbox key={each} value={each} label={say(`metric.${each}`)} description={say(`metric.${each}.help`)} />
              ))}
            </SimpleGrid>
          </Checkbox.Group>
          <Switch
            label={say('form.compare')}
            description={say(bare ? 'form.compare.none' : 'form.compare.help')}
            checked={compare && !bare}
            disabled={bare}
            onChange={(event) => setCompare(event.currentTarget.checked)}
          />
          {start.error && <Failed error={start.error} />}
          <Group><Button type="submit" loading={start.isPending}>{say('form.go')}</Button></Group>
        </Stack>
      </form>
    </Stack>
  );
}

const whole = (value: number | string, most: number): boolean =>
  value !== '' && Number.isInteger(Number(value)) && Number(value) >= 1 && Number(value) <= most;
