import './playground.css';

import { Alert, Anchor, Button, Collapse, Group, SegmentedControl, Stack, Switch, Text, Title, VisuallyHidden } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { IconAdjustments, IconCode, IconMessagePlus, IconScale } from '@tabler/icons-react';
import { memo, useEffect, useLayoutEffect, useRef } from 'react';
import { Link, useLocation, useSearch } from 'wouter';

import { kindOf, type KnownModel, useKnownModels } from '../../parts/known-models';
import { Asking } from './asking';
import { CodeWindow } from './code';
import { ColumnChoice } from './columns';
import { busy } from './conversation';
import { useVotes } from './kept-votes';
import { ParameterFields } from './parameters';
import { setBlind, setRaw, startAnew, startWith, type Talk, useTalk } from './talk';
import { TallyShown } from './tally';
import { TurnShown } from './turn';
import { useSay } from './words';

export default function Page() {
  const say = useSay();
  const talk = useTalk();
  const known = useKnownModels();
  const [parameters, { toggle }] = useDisclosure(false);
  const [code, codeWindow] = useDisclosure(false);
  const [votes, tally] = useDisclosure(false);
  const counted = useVotes().length;
  useBeginning(talk, known.data);
  const follow = useFollowing(talk);
  const writing = busy(talk.turns);
  const names = new Set(talk.columns.map((column) => column.model));
  const next = known.data?.find((model) => !names.has(model.id))?.id ?? known.data?.[0]?.id ?? null;
  return (
    <Stack gap="md" className="playground">
      <Group justify="space-between" align="flex-start">
        <div>
          <Title order={1} size="h2">{say('title')}</Title>
          <Text c="dimmed" size="sm">{say('lead')}</Text>
        </div>
        <Group gap="xs">
          <Button variant="default" leftSection={<IconMessagePlus size={16} />} disabled={talk.turns.length === 0} onClick={startAnew}>{say('fresh')}</Button>
          <Button variant="default" leftSection={<IconAdjustments size={16} />} aria-expanded={parameters} onClick={toggle}>{say('parameters')}</Button>
          {(talk.blind || counted > 0) && (
            <Button variant="default" leftSection={<IconScale size={16} />} aria-expanded={votes} onClick={tally.toggle}>{say('votes', { count: counted })}</Button>
          )}
          <Button variant="default" leftSection={<IconCode size={16} />} disabled={talk.columns.length === 0} onClick={codeWindow.open}>{say('code')}</Button>
        </Group>
      </Group>
      <Collapse expanded={votes}><TallyShown /></Collapse>
      <Collapse expanded={parameters}><ParameterFields parameters={talk.parameters} /></Collapse>
      {known.error && talk.columns.length === 0 && (
        <Alert color="red" role="alert">
          <Group justify="space-between">
            <Text size="sm">{say('models.failed', { reason: known.error.message })}</Text>
            <Button size="xs" variant="default" onClick={() => void known.refetch()}>{say('again')}</Button>
          </Group>
        </Alert>
      )}
      {known.isPending && talk.columns.length === 0 && <Text c="dimmed" role="status">{say('loading')}</Text>}
      <ColumnChoice columns={talk.columns} next={next} writing={writing} />
      <Showing blind={talk.blind} raw={talk.raw} locked={talk.turns.length > 0} />
      {talk.full && <Alert color="orange" role="alert">{say('full')}</Alert>}
      <Stack gap="xl" className="turns">
        {talk.turns.length === 0 && <Empty adapters={known.data?.some((model) => kindOf(model) !== 'base') ?? true} />}
        {talk.turns.map((turn, at) => (
          <TurnShown key={turn.key} turn={turn} raw={talk.raw} last={at === talk.turns.length - 1} />
        ))}
      </Stack>
      <VisuallyHidden role="status">{talk.turns.length > 0 && !writing ? say('done') : ''}</VisuallyHidden>
      <Asking talk={talk} blocked={talk.blind && names.size < 2 ? say('blind.two') : null} onAsk={follow} />
      <CodeWindow talk={talk} opened={code} close={codeWindow.close} />
    </Stack>
  );
}

const Showing = memo(function Showing({ blind, raw, locked }: { blind: boolean; raw: boolean; locked: boolean }) {
  const say = useSay();
  return (
    <Group justify="space-between" align="flex-start" gap="sm">
      <Switch
        label={say('blind')}
        description={say(locked ? 'blind.locked' : 'blind.help')}
        checked={blind}
        disabled={locked}
        onChange={(event) => setBlind(event.currentTarget.checked)}
        style={{ flex: '1 1 16rem' }}
      />
      <SegmentedControl
        size="xs"
        aria-label={say('shown')}
        data={[{ value: 'markdown', label: say('shown.markdown') }, { value: 'raw', label: say('shown.raw') }]}
        value={raw ? 'raw' : 'markdown'}
        onChange={(value) => setRaw(value === 'raw')}
      />
    </Group>
  );
});

function Empty({ adapters }: { adapters: boolean }) {
  const say = useSay();
  return (
    <Stack gap={4} align="center" py="xl" ta="center">
      <Text fw={600}>{say('empty.title')}</Text>
      <Text c="dimmed" maw="36rem">{say('empty.text')}</Text>
      {!adapters && (
        <Text c="dimmed">{say('empty.adapters')} <Anchor component={Link} href="/" underline="always">{say('empty.train')}</Anchor></Text>
      )}
    </Stack>
  );
}

/** The models that the address names (`?model=a&model=b&prompt=…`), else the newest adapter beside its base. */
function useBeginning(talk: Talk, known: KnownModel[] | undefined): void {
  const search = useSearch();
  const [, navigate] = useLocation();
  useEffect(() => {
    const asked = new URLSearchParams(search);
    const models = asked.getAll('model').filter((name) => name !== '');
    if (models.length > 0) {
      startWith(models, asked.get('prompt') ?? '');
      navigate('/playground', { replace: true });
    }
  }, [search, navigate]);
  const bare = talk.columns.length === 0 && !new URLSearchParams(search).has('model');
  useEffect(() => {
    if (bare && known && known.length > 0) startWith(usual(known));
  }, [bare, known]);
}

function usual(known: KnownModel[]): string[] {
  const adapters = known.filter((model) => kindOf(model) === 'adapter' && model.parent !== null);
  const newest = adapters.sort((one, other) => other.created - one.created)[0];
  return newest ? [newest.parent!, newest.id] : [known[0]!.id];
}

/** Keeps the end of the conversation in sight while answers grow, unless the reader has gone up.
 * Call what it gives when a question leaves.
 */
function useFollowing(talk: Talk): () => void {
  const following = useRef(true);
  useEffect(() => {
    const moved = (): void => {
      const page = document.documentElement;
      following.current = window.innerHeight + window.scrollY >= page.scrollHeight - 120;
    };
    window.addEventListener('scroll', moved, { passive: true });
    return () => window.removeEventListener('scroll', moved);
  }, []);
  useLayoutEffect(() => {
    if (following.current && talk.turns.length > 0) window.scrollTo(0, document.documentElement.scrollHeight);
  }, [talk.turns]);
  return () => {
    following.current = true;
  };
}
