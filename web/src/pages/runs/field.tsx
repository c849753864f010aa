import { NumberInput, Select, Switch, TextInput } from '@mantine/core';

import { short } from '../../parts/chart-numbers';
import type { Parameter, Setting } from './api';
import { known, useSay } from './words';

/** What explains a field stands below it, so that the fields of a row stand in line. */
export const ORDER: ('label' | 'input' | 'description' | 'error')[] = ['label', 'input', 'description', 'error'];

interface Given {
  parameter: Parameter;
  value: Setting | undefined;
  set: (value: Setting) => void;
  error: string | undefined;
}

/** One setting of a run, as its kind wants to be asked. */
export function Field({ parameter, value, set, error }: Given) {
  const say = useSay();
  const { name, kind, minimum, maximum, choices, description } = parameter;
  const label = known(`field.${name}`) ? say(`field.${name}` as 'field.seed') : name;
  const now = value ?? parameter.default;
  if (kind === 'bool') {
    return <Switch mt="lg" label={label} description={same(description, label) ? undefined : capital(description)} checked={now === true} onChange={(event) => set(event.currentTarget.checked)} />;
  }
  if (choices.length > 0) {
    const none = parameter.default === null ? [{ value: '', label: say('choice.none') }] : [];
    const data = choices.map((each) => ({ value: each, label: known(`choice.${each}`) ? say(`choice.${each}` as 'choice.none') : each }));
    return <Select label={label} description={capital(description)} inputWrapperOrder={ORDER} data={[...none, ...data]} allowDeselect={false} value={String(now ?? '')} onChange={(next) => set(next || null)} error={error} />;
  }
  if (minimum === null || maximum === null) {
    return <TextInput label={label} description={say('form.modules')} inputWrapperOrder={ORDER} value={Array.isArray(now) ? now.join(', ') : String(now ?? '')} onChange={(event) => set(event.currentTarget.value)} error={error} />;
  }
  const range = say('form.range', { low: short(minimum), high: maximum > 1e9 ? '2⁶³' : short(maximum) });
  return (
    <NumberInput
      label={label}
      description={known(`why.${name}`) ? `${say(`why.${name}` as 'why.lora_r')} (${range})` : same(description, label) ? range : `${capital(description)}: ${range}`}
      inputWrapperOrder={ORDER}
      value={now as number | string}
      onChange={set}
      allowDecimal={kind !== 'int'}
      step={kind === 'int' ? 1 : stepOf(Number(now))}
      hideControls={kind !== 'int'}
      error={error}
      inputMode={kind === 'int' ? 'numeric' : 'decimal'}
    />
  );
}

const same = (one: string, other: string): boolean => one.toLowerCase() === other.toLowerCase();
const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
const stepOf = (value: number): number => (value > 0 ? 10 ** Math.floor(Math.log10(value)) : 0.01);
