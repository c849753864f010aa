import { Alert, Autocomplete, Button, Checkbox, Group, Loader, Modal, Select, Stack, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { type FormEvent, useState } from 'react';

import { answer, api } from '../../api/typed';
import { Failed } from '../../parts/failed';
import { type Adapter, promote, useAliases, useChange } from './api';
import { useSay } from './words';

interface Props {
  /** which adapter; null shows nothing */
  adapter: string | null;
  /** those that may be chosen instead; none fixes it */
  adapters?: Adapter[];
  close: () => void;
}

/** Has an alias point at a version, after a comparison that says it is no worse. */
export function Promote({ adapter, adapters = [], close }: Props) {
  const say = useSay();
  return (
    <Modal
      opened={adapter !== null} onClose={close} lockScroll={false} size="lg" closeButtonProps={{ 'aria-label': say('close') }}
      title={<span style={{ overflowWrap: 'anywhere' }}>{say('promote.title', { name: adapters.length > 1 ? '' : adapter ?? '' })}</span>}
    >
      {adapter !== null && <Form key={adapter} adapter={adapter} adapters={adapters} close={close} />}
    </Modal>
  );
}

function Form({ adapter, adapters, close }: { adapter: string; adapters: Adapter[]; close: () => void }) {
  const say = useSay();
  const aliases = useAliases();
  const sets = useTestSets();
  const [chosen, setChosen] = useState(adapter);
  const [alias, setAlias] = useState('');
  const [test, setTest] = useState<string | null>(null);
  const [force, setForce] = useState(false);
  const promoting = useChange(promote);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    promoting.mutate({ alias: alias.trim(), adapter: chosen, test: force ? null : test, force }, { onSuccess: close });
  };
  return (
    <form onSubmit={submit}>
      <Stack>
        {adapters.length > 1 && (
          <Select
            label={say('adapters')} value={chosen} allowDeselect={false} data={adapters.map((each) => each.name)}
            onChange={(name) => name && setChosen(name)} comboboxProps={{ withinPortal: true }}
          />
        )}
        <Autocomplete
          label={say('promote.alias')} description={say('promote.alias.hint')} required value={alias} onChange={setAlias}
          data={(aliases.data ?? []).map((each) => each.name)} placeholder="prod" maxLength={63} data-autofocus
        />
        <Checkbox label={say('promote.force')} checked={force} onChange={(event) => setForce(event.currentTarget.checked)} />
        {!force && (
          <Select
            label={say('promote.test')} description={say('promote.test.hint')} required searchable value={test} onChange={setTest}
            data={sets} nothingFoundMessage={say('promote.nothing')} comboboxProps={{ withinPortal: true }}
          />
        )}
        {promoting.isPending && !force && (
          <Alert color="cyan" role="status"><Group gap="sm" wrap="nowrap"><Loader size="sm" /><Text size="sm">{say('promote.working')}</Text></Group></Alert>
        )}
        {promoting.error && <Failed error={promoting.error} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>{say('cancel')}</Button>
          <Button type="submit" loading={promoting.isPending} disabled={!alias.trim() || (!force && !test)}>{say('promote.do')}</Button>
        </Group>
      </Stack>
    </form>
  );
}

/** Everything that questions can be taken from; the test parts of split datasets first. */
function useTestSets(): string[] {
  const found = useQuery({
    queryKey: ['datasets'],
    queryFn: async ({ signal }) => (await answer(api.GET('/datasets', { signal }))).datasets,
  });
  const all = found.data ?? [];
  const parts = all.flatMap((each) => ['test', 'validation'].filter((part) => part in each.splits).map((part) => `${each.dataset_path}/${part}`));
  return [...parts, ...all.map((each) => each.dataset_path)];
}
