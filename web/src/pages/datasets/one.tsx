import { Badge, Button, Center, Group, Loader, Stack, Tabs, Text, Title } from '@mantine/core';
import { useState } from 'react';
import { Link, useLocation, useSearchParams } from 'wouter';

import { Back } from '../../parts/back';
import { bytes } from '../../parts/durations';
import { Failed } from '../../parts/failed';
import { When } from '../../parts/when';
import { type Dataset, useDataset } from './api';
import { Check } from './check';
import { Mask } from './mask';
import { Kind, SampleText, trainable, training } from './overview';
import { Removing } from './removing';
import { Rows } from './rows';
import { Splitting } from './splitting';
import { useSplits } from './splits';
import { useSay } from './words';

/** One dataset, looked at from all sides. Which side, and how it is read, stands in the address. */
export function OneDataset({ id }: { id: string }) {
  const say = useSay();
  const found = useDataset(id);
  return (
    <Stack maw={1400}>
      <Back to="/datasets">{say('back')}</Back>
      {found.error && <Failed error={found.error} again={() => void found.refetch()} />}
      {found.isPending && <Center p="xl"><Loader aria-label={say('loading')} /></Center>}
      {found.data && <Known dataset={found.data} />}
    </Stack>
  );
}

const TABS = ['rows', 'check', 'mask', 'split'] as const;

function Known({ dataset }: { dataset: Dataset }) {
  const say = useSay();
  const splits = useSplits();
  const [removing, setRemoving] = useState(false);
  const [, go] = useLocation();
  const [asked, ask] = useSearchParams();
  const tab = TABS.find((each) => each === asked.get('tab')) ?? 'rows';
  const open = (next: string | null) => ask((now) => {
    now.set('tab', next ?? 'rows');
    return now;
  });
  const own = dataset.kind !== 'sample';
  return (
    <>
      <Group justify="space-between" align="flex-start">
        <Stack gap={6} style={{ flex: '1 1 16rem', minWidth: 0 }}>
          <Title order={1} size="h2" style={{ overflowWrap: 'anywhere' }}>{dataset.name}</Title>
          <Group gap="xs" className="numbers">
            <Kind kind={dataset.kind} />
            <Badge variant="default" tt="none">{say('rows.count', { rows: dataset.examples.toLocaleString() })}</Badge>
            <Badge variant="default" tt="none">{bytes(dataset.size_bytes)}</Badge>
            {dataset.shape && <Badge variant="default" tt="none">{say('shape', { shape: dataset.shape })}</Badge>}
            {dataset.skipped > 0 && (
              <Badge variant="default" tt="none">{say('skipped', { rows: dataset.skipped.toLocaleString() })}</Badge>
            )}
            {dataset.created_at && <Text size="sm" className="quiet"><When at={dataset.created_at} /></Text>}
          </Group>
          {splits(dataset.splits) && <Text size="sm" className="numbers">{say('split.now', { splits: splits(dataset.splits) })}</Text>}
          <SampleText dataset={dataset} />
          {dataset.description && <Text size="sm" className="said">{dataset.description}</Text>}
        </Stack>
        <Group gap="xs">
          {trainable(dataset) && <Button component={Link} href={training(dataset)}>{say('train')}</Button>}
          {own && <Button variant="default" onClick={() => setRemoving(true)}>{say('delete')}</Button>}
        </Group>
      </Group>
      <Tabs value={tab} onChange={open} keepMounted={false}>
        <Tabs.List mb="md">
          {TABS.filter((each) => own || each !== 'split').map((each) => (
            <Tabs.Tab key={each} value={each}>{say(`tab.${each}`)}</Tabs.Tab>
          ))}
        </Tabs.List>
        <Tabs.Panel value="rows"><Rows dataset={dataset} /></Tabs.Panel>
        <Tabs.Panel value="check"><Check dataset={dataset} /></Tabs.Panel>
        <Tabs.Panel value="mask"><Mask dataset={dataset} /></Tabs.Panel>
        <Tabs.Panel value="split"><Splitting dataset={dataset} /></Tabs.Panel>
      </Tabs>
      <Removing dataset={removing ? dataset : null} close={() => setRemoving(false)} gone={() => go('/datasets')} />
    </>
  );
}
