import { Select, type SelectProps } from '@mantine/core';

import { words } from '../i18n/language';
import { type Kind, kindOf, type KnownModel, useKnownModels } from './known-models';

const en = {
  served: 'Loaded under another name',
  alias: 'Aliases',
  base: 'Base models',
  adapter: 'Adapters',
  gone: 'No longer here',
  nothing: 'No model of that name',
};
const zh: Record<keyof typeof en, string> = {
  served: '以其他名字加载的',
  alias: '别名',
  base: '基座模型',
  adapter: '适配器',
  gone: '已不存在',
  nothing: '没有这个名字的模型',
};
const useSay = words<keyof typeof en>(en, zh);

const ORDER: Kind[] = ['served', 'alias', 'base', 'adapter'];

interface Given extends Omit<SelectProps, 'data' | 'value' | 'onChange'> {
  value: string | null;
  onChange: (name: string) => void;
  /** Which of the known models may be chosen; all, unless told. */
  only?: (model: KnownModel) => boolean;
}

/** Chooses a base model, an adapter or an alias. A chosen one that is gone stays visible, and is said to be. */
export function ModelSelect({ value, onChange, only, ...rest }: Given) {
  const say = useSay();
  const known = useKnownModels();
  const models = (known.data ?? []).filter((model) => only?.(model) ?? true);
  const groups: { group: string; items: string[] }[] = ORDER.map((kind) => ({
    group: say(kind),
    items: models.filter((model) => kindOf(model) === kind).map((model) => model.id),
  })).filter((each) => each.items.length > 0);
  if (value !== null && !models.some((model) => model.id === value)) {
    groups.push({ group: known.data ? say('gone') : '…', items: [value] });
  }
  return (
    <Select
      allowDeselect={false}
      searchable
      nothingFoundMessage={say('nothing')}
      comboboxProps={{ withinPortal: true, width: 'max-content', position: 'bottom-start' }}
      maxDropdownHeight={320}
      title={value ?? ''}
      {...rest}
      data={groups}
      value={value}
      onChange={(name) => name !== null && onChange(name)}
    />
  );
}
