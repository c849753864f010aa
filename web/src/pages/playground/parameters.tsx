import { Button, NumberInput, SimpleGrid, Stack, TagsInput, Textarea } from '@mantine/core';

import { type Parameters, USUAL } from './conversation';
import { setParameters } from './talk';
import { type Key, useSay } from './words';

interface Field {
  name: 'temperature' | 'topP' | 'maxTokens' | 'seed' | 'repetitionPenalty' | 'topK';
  label: Key;
  help?: Key;
  min: number;
  max?: number;
  step: number;
  whole?: boolean;
}

const FIELDS: Field[] = [
  { name: 'temperature', label: 'temperature', help: 'temperature.help', min: 0, max: 2, step: 0.1 },
  { name: 'topP', label: 'top_p', min: 0.01, max: 1, step: 0.05 },
  { name: 'maxTokens', label: 'max_tokens', min: 1, max: 1_000_000, step: 64, whole: true },
  { name: 'seed', label: 'seed', help: 'seed.help', min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, whole: true },
  { name: 'repetitionPenalty', label: 'repetition_penalty', min: 0.1, max: 2, step: 0.05 },
  { name: 'topK', label: 'top_k', min: 0, max: 1_000_000, step: 1, whole: true },
];

/** How every column draws its answer. */
export function ParameterFields({ parameters }: { parameters: Parameters }) {
  const say = useSay();
  return (
    <Stack gap="sm">
      <Textarea
        label={say('system')}
        description={say('system.help')}
        autosize
        minRows={2}
        maxRows={8}
        value={parameters.system}
        onChange={(event) => setParameters({ system: event.currentTarget.value })}
      />
      <SimpleGrid cols={{ base: 2, sm: 3, lg: 6 }} spacing="sm">
        {FIELDS.map((field) => (
          <NumberInput
            key={field.name}
            label={say(field.label)}
            title={field.help ? say(field.help) : ''}
            placeholder={say('server')}
            min={field.min}
            {...(field.max === undefined ? {} : { max: field.max })}
            step={field.step}
            allowDecimal={!field.whole}
            value={parameters[field.name]}
            onChange={(value) => setParameters({ [field.name]: typeof value === 'number' ? value : numeric(value) })}
          />
        ))}
      </SimpleGrid>
      <TagsInput
        label={say('stop_at')}
        description={say('stop_at.help')}
        maxTags={16}
        value={parameters.stop}
        onChange={(stop) => setParameters({ stop })}
      />
      <Button variant="default" size="xs" w="fit-content" onClick={() => setParameters(USUAL)}>{say('reset')}</Button>
    </Stack>
  );
}

/** What is typed half ("-", "0.") is nothing yet. */
const numeric = (text: string): number | '' => (text.trim() === '' || Number.isNaN(Number(text)) ? '' : Number(text));
