import { words } from '../../i18n/language';

const en = {
  title: 'Runs',
};

const zh: Record<keyof typeof en, string> = {
  title: '训练任务',
};

export const useSay = words(en, zh);
