import { Alert, Button, Group, Select, Skeleton, Stack, Text, Textarea, TextInput } from '@mantine/core';
import { useMutation, useQuery } from '@tanstack/react-query';
import { type FormEvent, useState } from 'react';
import { useSearchParams } from 'wouter';

import { Confirm } from '../../parts/confirm';
import { DatasetSelect } from '../../parts/dataset-select';
import { Failed } from '../../parts/failed';
import { create, estimate, type Estimate, type Order, parametersOf, tuningProviders } from './api';
import { paid } from './money';
import { ParameterFields } from './parameter-fields';
import { chosen, type Given } from './parameters';
import { useSay } from './words';

const HERE = 'LOCAL';

/** Orders a job at a provider or here: what it would take is asked first, then somebody says yes to that. Provider, model
 * and data stand in the address. */
export function Ordering({ made }: { made: () => void }) {
  const say = useSay();
  const [asked, ask] = useSearchParams();
  const known = useQuery({ queryKey: ['finetune', 'models'], queryFn: ({ signal }) => tuningProviders(signal) });
  const [given, give] = useState<Given>({});
  const [name, setName] = useState('');
  const [system, setSystem] = useState('');
  const [once, setOnce] = useState(token);
  const provider = known.data?.find((each) => each.id === asked.get('provider')) ?? known.data?.find((each) => each.enabled);
  const parameters = useQuery({
    queryKey: ['finetune', 'parameters', provider?.id],
    queryFn: ({ signal }) => parametersOf(provider!.id, signal),
    enabled: provider !== undefined,
  });
  const models = provider?.models ?? [];
  const model = models.find((each) => each.id === asked.get('model')) ?? (models.length === 1 ? models[0] : undefined);
  const data = asked.get('data') ?? '';
  const set = (field: string, value: string | null): void =>
    ask((before) => {
      const next = new URLSearchParams(before);
      if (value) next.set(field, value);
      else next.delete(field);
      return next;
    }, { replace: true });
  const order = (): Order => ({
    ...(name.trim() ? { name: name.trim() } : {}),
    provider: provider!.id,
    model_name: model!.id,
    dataset_path: data.trim(),
    ...(system.trim() ? { system_message: system } : {}),
    parameters: chosen(parameters.data ?? [], given),
  });
  const estimating = useMutation({ mutationFn: () => estimate(order()) });
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    estimating.mutate();
  };
  if (!known.data) return known.error ? <Failed error={known.error} again={() => void known.refetch()} /> : <Skeleton height={320} />;
  const hosted = provider !== undefined && provider.id !== HERE;
  const start = async (): Promise<void> => {
    await create(order(), once);
    setOnce(token());
    made();
  };
  return (
    <form onSubmit={submit}>
      <Stack gap="md" maw={720}>
        <Text size="sm" c="dimmed">{say('new.about')}</Text>
        <Select
          label={say('new.provider')} allowDeselect={false} value={provider?.id ?? null}
          data={known.data.map((each) => ({ value: each.id, label: each.id === HERE ? say('here') : each.name }))}
          onChange={(value) => { set('provider', value); give({}); }}
        />
        {provider && !provider.enabled && (
          <Alert color="orange" title={say('not.ready')}>
            <Text size="sm">{provider.message}</Text>
          </Alert>
        )}
        <Select
          label={say('new.model')} searchable required disabled={models.length === 0} limit={100}
          placeholder={say(models.length ? 'new.model.pick' : 'new.model.none')} nothingFoundMessage={say('models.none')}
          data={models.map((each) => ({ value: each.id, label: each.name || each.id }))}
          value={model?.id ?? null} onChange={(value) => set('model', value)}
        />
        <DatasetSelect
          label={say('new.data')} description={say('new.data.how')} required value={data} onChange={(value) => set('data', value)}
        />
        <TextInput
          label={say('new.name')} placeholder={say('new.name.made')} value={name} maxLength={120}
          onChange={(event) => setName(event.currentTarget.value)}
        />
        <Textarea
          label={say('new.system')} description={say('new.system.how')} autosize minRows={2} maxRows={8} value={system}
          onChange={(event) => setSystem(event.currentTarget.value)}
        />
        {parameters.error && <Failed error={parameters.error} again={() => void parameters.refetch()} />}
        {parameters.data && (
          <ParameterFields parameters={parameters.data} limits={model?.limits ?? {}} given={given} give={give} />
        )}
        {estimating.error && <Failed error={estimating.error} />}
        <Group>
          <Button type="submit" loading={estimating.isPending} disabled={!provider?.enabled || !model || !data.trim()}>
            {say('new.check')}
          </Button>
        </Group>
      </Stack>
      <Confirm
        opened={estimating.data !== undefined} close={() => estimating.reset()} color="cyan" act={start}
        title={say(hosted ? 'new.title.hosted' : 'new.title.here', { provider: provider?.name ?? '' })} verb={say('new.start')}
      >
        {estimating.data && <Expected found={estimating.data} hosted={hosted} />}
      </Confirm>
    </form>
  );
}

function Expected({ found, hosted }: { found: Estimate; hosted: boolean }) {
  const say = useSay();
  const count = (value: number | null): string => (value === null ? say('unknown') : value.toLocaleString('en'));
  const facts: [string, string][] = [
    [say('expected.tokens'), count(found.tokens)],
    [say('expected.steps'), count(found.steps)],
    ...(hosted ? [[say('expected.cost'), found.cost ? `≈ ${paid(found.cost)}` : say('unknown')] as [string, string]] : []),
  ];
  return (
    <Stack gap="xs">
      {facts.map(([name, value]) => (
        <Group key={name} justify="space-between" gap="xs"><span>{name}</span><strong className="numbers">{value}</strong></Group>
      ))}
      {found.reason && <Text size="sm">{found.reason}</Text>}
      <Text size="sm">{say(hosted ? 'expected.pays' : 'expected.free')}</Text>
    </Stack>
  );
}

/** What makes a repeated request the same one; also where the page is no secure context, which has no randomUUID. */
const token = (): string => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
