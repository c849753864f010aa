import { Anchor, Badge, Button, Center, Group, Loader, Stack, Table, Text, Title } from '@mantine/core';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { useState } from 'react';
import { Link } from 'wouter';

import { answer, api } from '../../api/typed';
import { bytes } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { type Dataset, useDatasets } from './api';
import { Removing } from './removing';
import { useSplits } from './splits';
import { Uploads } from './uploads';
import { useSay } from './words';

/** Everything there is to train on, and how more comes in. */
export function Overview() {
  const say = useSay();
  const found = useDatasets();
  const [removing, setRemoving] = useState<Dataset | null>(null);
  return (
    <Stack maw={1400}>
      <div>
        <Title order={1} size="h2">{say('title')}</Title>
        <Text className="quiet">{say('intro')}</Text>
      </div>
      <Uploads />
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Center p="xl"><Loader aria-label={say('loading')} /></Center>}
      {found.data && <All datasets={found.data} remove={setRemoving} />}
      <Removing dataset={removing} close={() => setRemoving(null)} />
    </Stack>
  );
}

function All({ datasets, remove }: { datasets: Dataset[]; remove: (dataset: Dataset) => void }) {
  const say = useSay();
  const splits = useSplits();
  return (
    <Stack gap="sm">
      {datasets.length === 0 && <Text>{say('list.empty')}</Text>}
      {!datasets.some((each) => each.kind === 'sample') && <Samples />}
      {datasets.length > 0 && (
        <Table aria-label={say('list.label')} verticalSpacing="xs" highlightOnHover>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>{say('list.name')}</Table.Th>
              <Table.Th visibleFrom="sm">{say('list.kind')}</Table.Th>
              <Table.Th ta="right">{say('list.rows')}</Table.Th>
              <Table.Th ta="right" visibleFrom="md">{say('list.size')}</Table.Th>
              <Table.Th visibleFrom="lg">{say('list.splits')}</Table.Th>
              <Table.Th visibleFrom="md">{say('list.added')}</Table.Th>
              <Table.Th visibleFrom="sm">{say('list.actions')}</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {datasets.map((each) => (
              <Table.Tr key={each.id}>
                <Table.Td style={{ overflowWrap: 'anywhere' }}>
                  <Anchor component={Link} href={`/datasets/${each.id}`} fw={600} underline="always">{each.name}</Anchor>
                  <SampleText dataset={each} />
                </Table.Td>
                <Table.Td visibleFrom="sm"><Kind kind={each.kind} /></Table.Td>
                <Table.Td ta="right" className="numbers">{each.examples.toLocaleString()}</Table.Td>
                <Table.Td ta="right" className="numbers" visibleFrom="md" style={{ whiteSpace: 'nowrap' }}>{bytes(each.size_bytes)}</Table.Td>
                <Table.Td visibleFrom="lg" className="numbers">{splits(each.splits) || '–'}</Table.Td>
                <Table.Td visibleFrom="md" style={{ whiteSpace: 'nowrap' }}>{each.created_at ? <When at={each.created_at} /> : '–'}</Table.Td>
                <Table.Td visibleFrom="sm">
                  <Group gap="xs" wrap="nowrap">
                    {trainable(each) && <Button component={Link} href={training(each)} size="xs" variant="light">{say('train')}</Button>}
                    {each.kind !== 'sample' && (
                      <Button size="xs" variant="default" onClick={() => remove(each)} aria-label={say('delete.one', { name: each.name })}>
                        {say('delete')}
                      </Button>
                    )}
                  </Group>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
    </Stack>
  );
}

/** Where a run on it begins. */
export const training = (dataset: Dataset): string => `/runs/new?dataset=${encodeURIComponent(dataset.dataset_path)}`;

/** Whether it is meant to be trained on: of the sample files only one is. */
export const trainable = (dataset: Dataset): boolean => dataset.kind !== 'sample' || dataset.id === 'sample_train';

const ROLES = ['train', 'validation', 'test', 'control', 'general'] as const;

/** What a sample file is for. */
export function SampleText({ dataset }: { dataset: Dataset }) {
  const say = useSay();
  const role = ROLES.find((each) => dataset.kind === 'sample' && dataset.id === `sample_${each}`);
  return role ? <Text size="sm" className="quiet">{say(`sample.${role}`)}</Text> : null;
}

export function Kind({ kind }: { kind: Dataset['kind'] }) {
  const say = useSay();
  return <Badge variant="default" tt="none" miw="max-content">{say(`kind.${kind}`)}</Badge>;
}

function Samples() {
  const say = useSay();
  const queries = useQueryClient();
  const adding = useMutation({
    mutationFn: () => answer(api.POST('/samples')),
    onSuccess: () => queries.invalidateQueries({ queryKey: ['datasets'] }),
  });
  return (
    <>
      <div><Button variant="default" loading={adding.isPending} onClick={() => adding.mutate()}>{say('drop.sample')}</Button></div>
      {adding.error && <Failed error={adding.error} again={() => adding.mutate()} />}
    </>
  );
}
