import { ActionIcon, Button, Group } from '@mantine/core';
import { IconPlus, IconX } from '@tabler/icons-react';
import { memo } from 'react';

import { ModelSelect } from '../../parts/model-select';
import type { Column } from './conversation';
import { addColumn, MOST_COLUMNS, removeColumn, setModel } from './talk';
import { useSay } from './words';

interface Given {
  columns: Column[];
  next: string | null;
  writing: boolean;
}

/** Which models answer, one a column. `next` is the model that another column begins with. Not drawn anew with every
 * word of an answer. */
export const ColumnChoice = memo(function ColumnChoice({ columns, next, writing }: Given) {
  const say = useSay();
  return (
    <Group align="flex-end" gap="sm" role="group" aria-label={say('columns')}>
      {columns.map((column, at) => (
        <Group key={column.key} gap={4} wrap="nowrap" align="flex-end" style={{ flex: '1 1 14rem', minWidth: 0 }}>
          <ModelSelect
            label={say('model', { number: at + 1 })}
            value={column.model}
            onChange={(model) => setModel(column.key, model)}
            disabled={writing}
            style={{ flex: 1, minWidth: 0 }}
          />
          {columns.length > 1 && (
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
      {columns.length < MOST_COLUMNS && next !== null && (
        <Button variant="default" leftSection={<IconPlus size={16} />} disabled={writing} onClick={() => addColumn(next)}>
          {say('column.add')}
        </Button>
      )}
    </Group>
  );
});
