import { words } from '../../i18n/language';

const en = {
  title: 'Models',
};

const zh: Record<keyof typeof en, string> = {
  title: '模型',
};

export const useSay = words(en, zh);
