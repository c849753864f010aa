import { useQueryClient } from '@tanstack/react-query';

import { Confirm } from '../../parts/confirm';
import { type Dataset, remove } from './api';
import { useSay } from './words';

/** Asks before `dataset` is deleted; nothing is shown where it is null. */
export function Removing({ dataset, close, gone }: { dataset: Dataset | null; close: () => void; gone?: () => void }) {
  const say = useSay();
  const queries = useQueryClient();
  const act = async () => {
    if (!dataset) return;
    await remove(dataset.id);
    gone?.();
    queries.removeQueries({ queryKey: ['datasets', dataset.id] });
    await queries.invalidateQueries({ queryKey: ['datasets'], exact: true });
  };
  return (
    <Confirm opened={dataset !== null} title={say('delete.title')} verb={say('delete')} act={act} close={close}>
      {dataset && say('delete.text', { name: dataset.name, rows: dataset.examples.toLocaleString() })}
    </Confirm>
  );
}
