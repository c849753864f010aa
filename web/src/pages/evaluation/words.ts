import { words } from '../../i18n/language';

const en = {
  title: 'Evaluation',
};

const zh: Record<keyof typeof en, string> = {
  title: '评估',
};

export const useSay = words(en, zh);
