import { Alert, Button, Collapse, Group, Paper, SimpleGrid, Stack, Text, TextInput, Title } from '@mantine/core';
import { IconChevronDown, IconChevronRight } from '@tabler/icons-react';
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { type FormEvent, useRef, useState } from 'react';
import { useLocation, useSearch } from 'wouter';

import { answer, api } from '../../api/typed';
import { useLanguage } from '../../i18n/language';
import { Back } from '../../parts/back';
import { DatasetSelect } from '../../parts/dataset-select';
import { Failed } from '../../parts/failed';
import { ModelSelect } from '../../parts/model-select';
import { Waiting } from '../../parts/waiting';
import { type Body, lastPart, type Parameter, parametersQuery, type RunInFull, runQuery, type Setting } from './api';
import { Field, ORDER } from './field';
import { bodyOf, type Filled, faults, fromRecipe, MAIN, OWN_NAMES, PATHS } from './form';
import { Planned } from './plan';
import { useSay } from './words';

/** Starts a run; `?from=` fills in another's settings, `?dataset=` names the data. */
export function Start() {
  const say = useSay();
  const { language } = useLanguage();
  const asked = new URLSearchParams(useSearch());
  const from = asked.get('from');
  const old = useQuery({ ...runQuery(from ?? '', language), enabled: from !== null, refetchInterval: false });
  return (
    <Stack maw={960}>
      <Back to="/runs">{say('all')}</Back>
      <Title order={1} size="h2">{say('form.title')}</Title>
      {old.error && <Failed error={old.error} again={() => void old.refetch()} />}
      {from !== null && old.isPending ? <Waiting /> : <Form key={from ?? ''} from={old.data ?? null} dataset={asked.get('dataset') ?? ''} />}
    </Stack>
  );
}

function Form({ from, dataset }: { from: RunInFull | null; dataset: string }) {
  const say = useSay();
  const { language } = useLanguage();
  const [, go] = useLocation();
  const queries = useQueryClient();
  const [filled, setFilled] = useState<Filled>(() =>
    from ? fromRecipe(from.request) : { base_model: 'tunesmith-small', dataset_path: dataset, name: '' },
  );
  const [checked, setChecked] = useState(false);
  const [advanced, setAdvanced] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const base = String(filled['base_model'] ?? '');
  const parameters = useQuery(parametersQuery(base, language));
  const known = parameters.data?.parameters ?? [];
  const wrong = faults(filled, known, say);
  const body = bodyOf(filled, known);
  const set = (name: string, value: Setting) => setFilled((now) => ({ ...now, [name]: value }));
  const planner = useRef<AbortController | null>(null);
  const plan = useMutation({
    mutationFn: async (body: Body) => {
      planner.current = new AbortController();
      return { body, plan: await answer(api.POST('/train/plan', { body, signal: planner.current.signal })) };
    },
  });
  const start = useMutation({
    mutationFn: () => answer(api.POST('/train', { body })),
    onSuccess: ({ task_id }) => {
      planner.current?.abort();
      void queries.invalidateQueries({ queryKey: ['runs'] });
      go(`/runs/${task_id}`);
    },
  });
  const whole = (): boolean => {
    setChecked(true);
    const [first] = Object.keys(wrong);
    if (first === undefined) return true;
    if (!MAIN.includes(first) && known.some((each) => each.name === first)) setAdvanced(true);
    requestAnimationFrame(() => form.current?.querySelector<HTMLElement>('[aria-invalid=true]')?.focus());
    return false;
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (whole()) start.mutate();
  };
  const text = (name: string) => ({
    label: say(`form.${name}` as 'form.name'),
    description: say(`form.${name}.help` as 'form.name.help'),
    value: String(filled[OWN_NAMES[name]!] ?? ''),
    onChange: (value: string) => set(OWN_NAMES[name]!, value),
    error: checked ? wrong[OWN_NAMES[name]!] : undefined,
    inputWrapperOrder: ORDER,
  });
  const field = (each: Parameter) => (
    <Field
      key={each.name}
      parameter={each}
      value={filled[each.name]}
      set={(value) => set(each.name, value)}
      error={checked ? wrong[each.name] : undefined}
    />
  );
  const shown = (names: readonly string[]) => names.map((name) => known.find((each) => each.name === name)).filter((each) => each !== undefined);
  return (
    <form onSubmit={submit} ref={form} noValidate>
      <Stack>
        {from && <Alert color="blue">{say('form.from', { name: lastPart(from.output_dir) })}</Alert>}
        <SimpleGrid cols={{ base: 1, sm: 2 }}>
          <ModelSelect
            {...text('base')}
            withAsterisk
            only={(model) => model.parent === null && model.root === model.id}
            value={base || null}
            onChange={(name) => set('base_model', name)}
          />
          <DatasetSelect {...text('dataset')} withAsterisk />
          <NameField {...text('name')} />
          <DatasetSelect {...text('validation')} />
        </SimpleGrid>
        {parameters.error && <Failed error={parameters.error} again={() => void parameters.refetch()} />}
        <SimpleGrid cols={{ base: 1, xs: 2, sm: 3 }}>{shown(MAIN).map(field)}</SimpleGrid>
        <Paper withBorder p="sm">
          <Button
            variant="subtle"
            color="gray"
            c="inherit"
            px="xs"
            aria-expanded={advanced}
            leftSection={advanced ? <IconChevronDown size={16} /> : <IconChevronRight size={16} />}
            onClick={() => setAdvanced(!advanced)}
          >
            {say('form.advanced')}
          </Button>
          <Collapse expanded={advanced}>
            <Stack p="xs">
              <SimpleGrid cols={{ base: 1, sm: 2 }}>
                {PATHS.map((name) => <DatasetSelect key={name} {...text(name)} />)}
              </SimpleGrid>
              <SimpleGrid cols={{ base: 1, xs: 2, sm: 3 }}>
                {known.filter((each) => !MAIN.includes(each.name)).map(field)}
              </SimpleGrid>
            </Stack>
          </Collapse>
        </Paper>
        {start.error && <Failed error={start.error} />}
        <Group>
          <Button type="submit" loading={start.isPending} disabled={known.length === 0}>{say('form.go')}</Button>
          <Button
            variant="default"
            loading={plan.isPending}
            disabled={known.length === 0}
            onClick={() => { if (whole()) plan.mutate(body); }}
          >
            {say('form.plan')}
          </Button>
          {plan.isPending && <Text size="sm" role="status">{say('plan.trying')}</Text>}
        </Group>
        {plan.error && plan.error.name !== 'AbortError' && <Failed error={plan.error} />}
        {plan.data && !plan.isPending && (
          <Planned
            plan={plan.data.plan}
            stale={JSON.stringify(plan.data.body) !== JSON.stringify(body)}
            apply={(changes) => setFilled((now) => ({ ...now, ...fromRecipe(changes) }))}
          />
        )}
      </Stack>
    </form>
  );
}

interface NameGiven {
  label: string;
  description: string;
  value: string;
  onChange: (value: string) => void;
  error: string | undefined;
  inputWrapperOrder: typeof ORDER;
}

function NameField({ onChange, ...rest }: NameGiven) {
  return <TextInput {...rest} leftSection={<Text size="sm">adapters/</Text>} leftSectionWidth={78} onChange={(event) => onChange(event.currentTarget.value)} />;
}
