import { Alert, Anchor, Button, Group, NumberInput, Stack, Text, TextInput } from '@mantine/core';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { type FormEvent, useState } from 'react';
import { Link } from 'wouter';

import { Failed } from '../../parts/failed';
import { type Dataset, type Shares, splitAs, splitInPlace } from './api';
import { PARTS, type PartName, useSplits } from './splits';
import { suggested } from './suggested';
import { useSay } from './words';

/** Divides the data: in place where it was kept whole, else as a dataset of its own. */
export function Splitting({ dataset }: { dataset: Dataset }) {
  const say = useSay();
  const splits = useSplits();
  const queries = useQueryClient();
  const [shares, setShares] = useState<Record<PartName, number>>({ train: 80, validation: 10, test: 10 });
  const [seed, setSeed] = useState<number>(42);
  const [name, setName] = useState(() => suggested(dataset.name));
  const inPlace = dataset.kind === 'dataset' && Object.keys(dataset.splits).length === 0;
  const sum = PARTS.reduce((total, part) => total + shares[part], 0);
  const splitting = useMutation({
    mutationFn: () => {
      const asked: Shares = { train: shares.train / 100, validation: shares.validation / 100, test: shares.test / 100, seed };
      return inPlace ? splitInPlace(dataset.id, asked) : splitAs(dataset.id, name, asked);
    },
    onSuccess: () => queries.invalidateQueries({ queryKey: ['datasets'] }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (sum === 100) splitting.mutate();
  };
  const made = splitting.data;
  return (
    <form onSubmit={submit}>
      <Stack maw={720}>
        <Text>{say('split.intro')}</Text>
        {!inPlace && (
          <TextInput
            label={say('split.name')} description={say('split.name.hint')} value={name} required maxLength={64}
            onChange={(event) => setName(event.currentTarget.value)}
          />
        )}
        <Group align="flex-start">
          {PARTS.map((part) => (
            <NumberInput
              key={part} label={say('split.share', { part: say(`split.${part}`) })} value={shares[part]} w={130}
              min={0} max={100} allowDecimal={false}
              onChange={(value) => setShares((now) => ({ ...now, [part]: Number(value) || 0 }))}
            />
          ))}
        </Group>
        {sum !== 100 && <Text size="sm" c="red" role="alert">{say('split.sum', { sum })}</Text>}
        <NumberInput
          label={say('split.seed')} description={say('split.seed.hint')} value={seed} allowDecimal={false} w={280}
          onChange={(value) => setSeed(Number(value) || 0)}
        />
        <div><Button type="submit" loading={splitting.isPending} disabled={sum !== 100}>{say(inPlace ? 'split.do' : 'split.make')}</Button></div>
        {splitting.error && <Failed error={splitting.error} />}
        {made && (
          <Alert color="green" role="status" title={<span className="plain">{say('split.done', { name: made.dataset.name, splits: splits(made.dataset.splits) })}</span>}>
            {made.duplicates ? <Text size="sm">{say('split.duplicates', { duplicates: made.duplicates })}</Text> : null}
            {!inPlace && (
              <Anchor component={Link} href={`/datasets/${made.dataset.id}`} underline="always">
                {say('split.open', { name: made.dataset.name })}
              </Anchor>
            )}
          </Alert>
        )}
      </Stack>
    </form>
  );
}
