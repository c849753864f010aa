import { Checkbox, Fieldset, Select, SimpleGrid, TextInput, Button, Stack } from '@mantine/core';
import { useState } from 'react';

import type { Parameter } from './api';
import type { Given } from './parameters';
import { named, useSay } from './words';

const FIRST = ['epochs', 'learning_rate', 'batch_size', 'lora_rank'];

interface Shown {
  parameters: Parameter[];
  /** of the chosen model: least and most by parameter */
  limits: Record<string, number[]>;
  given: Given;
  give: (given: Given) => void;
}

/** What a provider lets one set; the few that matter first. An empty field is the provider's default. */
export function ParameterFields({ parameters, limits, given, give }: Shown) {
  const say = useSay();
  const [all, setAll] = useState(false);
  const first = parameters.filter((each) => FIRST.includes(each.name));
  const rest = parameters.filter((each) => !FIRST.includes(each.name));
  const field = (each: Parameter) => (
    <Field
      key={each.name} parameter={each} limits={limits[each.name] ?? null} value={given[each.name]}
      set={(value) => give({ ...given, [each.name]: value })}
    />
  );
  return (
    <Fieldset legend={say('new.parameters')}>
      <Stack gap="md">
        <SimpleGrid cols={{ base: 1, sm: 2 }}>{first.map(field)}</SimpleGrid>
        {rest.length > 0 && (
          <Button size="xs" variant="default" style={{ alignSelf: 'flex-start' }} aria-expanded={all} onClick={() => setAll(!all)}>
            {say(all ? 'new.less' : 'new.more', { count: rest.length })}
          </Button>
        )}
        {all && <SimpleGrid cols={{ base: 1, sm: 2 }}>{rest.map(field)}</SimpleGrid>}
      </Stack>
    </Fieldset>
  );
}

interface One {
  parameter: Parameter;
  limits: number[] | null;
  value: string | boolean | undefined;
  set: (value: string | boolean) => void;
}

function Field({ parameter, limits, value, set }: One) {
  const say = useSay();
  const { type, description, choices } = parameter;
  const name = named(parameter.name) ? say(`parameter.${parameter.name}` as 'parameter.epochs') : parameter.name;
  if (type === 'bool') {
    const checked = typeof value === 'boolean' ? value : parameter.default === true;
    return <Checkbox label={name} description={description} checked={checked} onChange={(event) => set(event.currentTarget.checked)} />;
  }
  const text = typeof value === 'string' ? value : '';
  const usual = parameter.default === null ? say('new.default') : String(parameter.default);
  if (choices.length > 0) {
    const data = choices.map(String);
    return (
      <Select
        label={name} description={description} placeholder={usual} data={data} value={text || null} clearable
        clearButtonProps={{ 'aria-label': say('new.default') }} onChange={(chosen) => set(chosen ?? '')}
      />
    );
  }
  const [low = null, high = null] = limits ?? [parameter.min, parameter.max];
  const wrong = type !== 'string' && text !== '' && !fits(text, type, low, high);
  const range = low !== null && high !== null && type !== 'string' && high < 1e9 ? ` (${low} – ${high})` : '';
  return (
    <TextInput
      label={name} description={description + range} placeholder={usual} value={text} className="numbers"
      inputMode={type === 'string' ? 'text' : 'decimal'} error={wrong ? say('new.wrong') : null}
      onChange={(event) => set(event.currentTarget.value)}
    />
  );
}

function fits(text: string, type: Parameter['type'], low: number | null, high: number | null): boolean {
  const value = Number(text);
  if (!Number.isFinite(value) || (type === 'int' && !Number.isInteger(value))) return false;
  return (low === null || value >= low) && (high === null || value <= high);
}
