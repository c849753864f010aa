import { ActionIcon, Button, Group } from '@mantine/core';
import { IconPlus, IconX } from '@tabler/icons-react';

import { ModelSelect } from '../../parts/model-select';
import { addColumn, MOST_COLUMNS, removeColumn, setModel, type Talk } from './talk';
import { useSay } from './words';

/** Which models answer, one a column. `next` is the model that another column begins with. */
export function ColumnChoice({ talk, next, writing }: { talk: Talk; next: string | null; writing: boolean }) {
  const say = useSay();
  return (
    <Group align="flex-end" gap="sm" role="group" aria-label={say('columns')}>
      {talk.columns.map((column, at) => (
        <Group key={column.key} gap={4} wrap="nowrap" align="flex-end" style={{ flex: '1 1 14rem', minWidth: 0 }}>
          <ModelSelect
            label={say('model', { number: at + 1 })}
            value={column.model}
            onChange={(model) => setModel(column.key, model)}
            disabled={writing}
            style={{ flex: 1, minWidth: 0 }}
          />
          {talk.columns.length > 1 && (
            <ActionIcon
              variant="subtle"
              color="gray"
              size="lg"
              disabled={writing}
              aria-label={say('column.remove', { number: at + 1, model: column.model })}
              onClick={() => removeColumn(column.key)}
            >
              <IconX size={16} />
            </ActionIcon>
          )}
        </Group>
      ))}
      {talk.columns.length < MOST_COLUMNS && next !== null && (
        <Button variant="default" leftSection={<IconPlus size={16} />} disabled={writing} onClick={() => addColumn(next)}>
          {say('column.add')}
        </Button>
      )}
    </Group>
  );
}
