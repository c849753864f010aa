import { Route, Switch } from 'wouter';

import './datasets.css';
import '../../parts/quiet.css';

import { OneDataset } from './one';
import { Overview } from './overview';

export default function Page() {
  return (
    <Switch>
      <Route path="/datasets/:id">{({ id }) => <OneDataset key={id} id={decoded(id)} />}</Route>
      <Route><Overview /></Route>
    </Switch>
  );
}

/** An address may hold any text. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
