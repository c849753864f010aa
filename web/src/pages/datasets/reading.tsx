import { Button, Group, NumberInput } from '@mantine/core';
import { useState } from 'react';
import { useSearchParams } from 'wouter';

import { kindOf } from '../../parts/known-models';
import { ModelSelect } from '../../parts/model-select';
import type { Reading } from './api';
import { useSay } from './words';

const SHIPPED = 'tunesmith-small';

/** How the address says that the data is to be read. */
export function useReading(): Reading {
  const [asked] = useSearchParams();
  const most = Number(asked.get('most'));
  return { base: asked.get('base') || SHIPPED, most: Number.isInteger(most) && most > 0 ? most : null };
}

/** Chooses the base model and the limit that the data is read with. */
export function ReadingChoice() {
  const say = useSay();
  const [, ask] = useSearchParams();
  const { base, most } = useReading();
  const [limit, setLimit] = useState<string | number>(most ?? '');
  const change = (name: string, value: string | null) => ask((now) => {
    if (value) now.set(name, value);
    else now.delete(name);
    return now;
  });
  const apply = () => change('most', Number(limit) > 0 ? String(limit) : null);
  return (
    <Group align="flex-end" gap="sm">
      <ModelSelect
        label={say('base')} description={say('base.hint')} value={base} w={{ base: '100%', xs: 280 }}
        only={(model) => kindOf(model) === 'base'} onChange={(name) => change('base', name)}
      />
      <Group
        component="form" align="flex-end" gap="xs" wrap="nowrap"
        onSubmit={(event: React.FormEvent) => {
          event.preventDefault();
          apply();
        }}
      >
        <NumberInput
          label={say('most')} description={say('most.hint')} placeholder={say('most.default')} w={220}
          min={1} max={1_000_000} allowDecimal={false} value={limit} onChange={setLimit} hideControls
        />
        <Button type="submit" variant="default" disabled={String(limit || '') === String(most ?? '')}>{say('most.apply')}</Button>
      </Group>
    </Group>
  );
}
